"""A Hugging Face dataset, streamed by name: nothing is downloaded but what is read."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.training.data.chat import ChatEncoder
from hydrahead.training.data.documents import Document, DocumentSource, TextEncoder
from hydrahead.training.data.files import Record, encode_record, record_of


class HubAddress(BaseModel):
    """`NAME[:config][:split][:column]`, as one part (split), two (split, column) or three.

    Any part can also be written key=value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    config: str | None = None
    split: str = "train"
    column: str = "text"

    @classmethod
    def parse(cls, text: str) -> "HubAddress":
        """The address in `text` (without the leading `hf:`).

        Raises:
            HydraHeadError: No name, too many parts, or an unknown key.
        """
        name, *parts = text.split(":")
        if not name or len(parts) > 3:
            mend = "write hf:NAME[:config][:split][:column]"
            raise HydraHeadError("is not the address of a dataset", where=f"hf:{text}", mend=mend)
        keys = ("config", "split", "column")
        plain = [part for part in parts if "=" not in part]
        positional = {1: ("split",), 2: ("split", "column"), 3: keys}.get(len(plain), ())
        fields = dict(zip(positional, plain, strict=True))
        for part in parts:
            key, equals, value = part.partition("=")
            if equals and key not in keys:
                raise unknown_name("part of a dataset's address", key, keys)
            if equals:
                fields[key] = value
        return cls(name=name, **fields)


class HubSource(DocumentSource):
    """Rows of a streamed dataset, in its own order."""

    def __init__(self, address: HubAddress, tokenizer: Any) -> None:
        self._address = address
        self._text = TextEncoder(tokenizer)
        self._chat = ChatEncoder(tokenizer)

    def records(self, start: int) -> Iterator[Record]:
        """Rows from number `start`.

        Raises:
            HydraHeadError: `datasets` is not installed, or the dataset cannot be reached.
        """
        address = self._address
        where = f"hf:{address.name}"
        try:
            import datasets
        except ImportError:
            mend = "pip install 'hydrahead[train]'"
            raise HydraHeadError("streaming needs datasets", where=where, mend=mend) from None
        try:
            rows = datasets.load_dataset(
                address.name, address.config, split=address.split, streaming=True
            )
            for number, fields in enumerate(rows.skip(start), start=start):
                place = f"{where} row {number}"
                yield record_of(fields, where=place, column=address.column)
        except (OSError, ValueError) as error:
            mend = "check name, config and split, and the connection"
            raise HydraHeadError(f"cannot be streamed ({error})", where=where, mend=mend) from error

    def encode(self, record: Record) -> list[Document]:
        """One document of text, or a chat."""
        return encode_record(record, self._text, self._chat)
