"""Text, JSONL and parquet files, alone or in a folder.

A text file is one document, read in pieces that end at a line break, so that a file of any size
takes little memory. A line of JSONL or a row of parquet has `text` or `messages` (a chat).
"""

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrahead.core.errors import HydraHeadError
from hydrahead.training.data.chat import ChatEncoder
from hydrahead.training.data.documents import Document, DocumentSource, TextEncoder

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """Part of a text; most texts are one piece."""

    text: str
    is_start: bool = True
    is_end: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Messages of one conversation and where they were found."""

    messages: list[dict[str, Any]]
    where: str


Record = TextPiece | Chat


def record_of(fields: Any, *, where: str, column: str = "text") -> Record:
    """A record from a JSON object or a table's row.

    Raises:
        HydraHeadError: It has neither the text column nor `messages`, or they are of the wrong
            type.
    """
    if not isinstance(fields, dict):
        raise HydraHeadError("is not an object", where=where, mend='write {"text": ...}')
    value = fields.get(column)
    if isinstance(value, str):
        return TextPiece(text=value)
    messages = fields.get("messages") if column == "text" else value
    if isinstance(messages, list) and all(isinstance(m, dict) for m in messages):
        return Chat(messages=messages, where=where)
    found = ", ".join(sorted(map(str, fields))) or "nothing"
    what = f"has neither {column!r} (text) nor 'messages' (a chat), but {found}"
    raise HydraHeadError(what, where=where, mend="rename the column, or name it in the data source")


def read_text(path: Path, piece_characters: int) -> Iterator[Record]:
    """Pieces of one UTF-8 text file.

    Raises:
        HydraHeadError: The file is not text (NUL bytes, or not UTF-8).
    """
    is_start, pending, offset = True, "", 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            pending += _decode(decoder, chunk, path, offset, final=False)
            offset += len(chunk)
            while len(pending) > piece_characters:
                cut = _cut(pending, piece_characters)
                yield TextPiece(text=pending[:cut], is_start=is_start, is_end=False)
                is_start, pending = False, pending[cut:]
    pending += _decode(decoder, b"", path, offset, final=True)
    if pending.strip() or not is_start:
        yield TextPiece(text=pending, is_start=is_start)


def _decode(decoder: Any, chunk: bytes, path: Path, offset: int, *, final: bool) -> str:
    mend = "give text in UTF-8"
    if b"\0" in chunk:
        place = offset + chunk.index(b"\0")
        raise HydraHeadError(f"is binary (a NUL at byte {place})", where=path, mend=mend)
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text ({error.reason} near byte {offset + error.start})"
        raise HydraHeadError(what, where=path, mend=mend) from None


def _cut(text: str, limit: int) -> int:
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, limit // 2, limit)
        if found >= 0:
            return found + len(mark)
    return limit


def read_jsonl(path: Path, piece_characters: int) -> Iterator[Record]:
    """One record per line; empty lines are skipped."""
    del piece_characters
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                fields = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise HydraHeadError(f"is not JSON ({error})", where=where) from None
            yield record_of(fields, where=where)


def read_parquet(path: Path, piece_characters: int) -> Iterator[Record]:
    """One record per row, one row group in memory at a time."""
    del piece_characters
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        mend = "pip install 'hydrahead[train]'"
        raise HydraHeadError("parquet needs pyarrow", where=path, mend=mend) from None
    try:
        table = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise HydraHeadError(f"is not a parquet file ({error})", where=path) from None
    wanted = [name for name in ("text", "messages") if name in table.schema_arrow.names]
    if not wanted:
        what = f"has neither 'text' nor 'messages', but {', '.join(table.schema_arrow.names)}"
        raise HydraHeadError(what, where=path, mend="rename the column")
    number = 0
    for group in range(table.num_row_groups):
        for fields in table.read_row_group(group, columns=wanted).to_pylist():
            number += 1
            yield record_of(fields, where=f"{path} row {number}")


READERS: dict[str, Callable[[Path, int], Iterator[Record]]] = {
    **dict.fromkeys((".txt", ".text", ".md", ".rst", ".tex", ".csv", ".log", ".html"), read_text),
    **dict.fromkeys((".py", ".c", ".h", ".cpp", ".rs", ".go", ".java", ".js", ".ts"), read_text),
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}
"""File suffix -> reader. A folder is searched for these; a lone file of another is read as text."""


class FileSource(DocumentSource):
    """A file, or every readable file of a folder and the folders in it, ordered by name."""

    def __init__(self, path: Path, tokenizer: Any, *, piece_characters: int) -> None:
        self.paths = (path,)
        self._files = _files_of(path)
        self._piece_characters = piece_characters
        self._text = TextEncoder(tokenizer)
        self._chat = ChatEncoder(tokenizer)

    def records(self, start: int) -> Iterator[Record]:
        """Pieces, lines and rows of all files."""
        number = 0
        for path in self._files:
            reader = READERS.get(path.suffix.lower(), read_text)
            for record in reader(path, self._piece_characters):
                if number >= start:
                    yield record
                number += 1

    def encode(self, record: Record) -> list[Document]:
        """One document of text, or a chat."""
        return encode_record(record, self._text, self._chat)


def encode_record(record: Record, text: TextEncoder, chat: ChatEncoder) -> list[Document]:
    """The documents of a text piece or a chat."""
    match record:
        case TextPiece():
            if not record.text.strip():
                return []
            return [text.document(record.text, is_start=record.is_start, is_end=record.is_end)]
        case Chat():
            return chat.documents(record.messages, where=record.where)


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise HydraHeadError("no such file or folder", where=path, mend="check the path")
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in READERS)
    if not files:
        known = ", ".join(READERS)
        raise HydraHeadError("no readable file in this folder", where=path, mend=f"known: {known}")
    return files
