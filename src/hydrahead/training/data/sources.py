"""Data sources by name: `builtin`, a path, `hf:NAME`, and weighted sums of them.

builtin                       offline text and recall samples, half and half
builtin:recall=0.3            another share of recall samples (0: text only)
corpus.txt | folder/ | chats.jsonl | rows.parquet
hf:NAME[:config][:split][:column]
corpus.txt*0.7+builtin*0.3    shares of tokens
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hydrahead.core.errors import HydraHeadError, did_you_mean
from hydrahead.core.jsonio import validate
from hydrahead.training.data.builtin import BuiltinText
from hydrahead.training.data.documents import DocumentSource, no_text, pad_id_of
from hydrahead.training.data.files import FileSource
from hydrahead.training.data.hub import HubAddress, HubSource
from hydrahead.training.data.recall import RecallSource

_PIECE_CHARACTERS = 1 << 14
_CHARACTERS_PER_TOKEN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedSource:
    """A source and its share of the tokens (relative to the others)."""

    source: DocumentSource
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What `PackedBatches` draws from."""

    parts: tuple[WeightedSource, ...]
    pad_id: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """Local files and folders that are read."""
        return tuple(path for part in self.parts for path in part.source.paths)


class BuiltinSettings(BaseModel):
    """Settings of `builtin:...`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of tokens that are recall samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    tokenizer: Any
    length: int
    seed: int


def build_source(spec: str | Path, tokenizer: Any, *, length: int, seed: int = 0) -> Mixture:
    """The data a specification names; see the module's docstring for how to write one.

    Args:
        spec: The specification.
        tokenizer: The model's tokenizer (transformers).
        length: Row length the data will be packed to; generated samples fit it.
        seed: For generated samples.

    Raises:
        HydraHeadError: Missing, empty or binary data, an unknown setting, a missing library.
    """
    request = _Request(tokenizer=tokenizer, length=length, seed=seed)
    parts: list[WeightedSource] = []
    for text, weight in _terms(str(spec)):
        inner = _parts_of(text, request)
        total = sum(part.weight for part in inner)
        parts += [WeightedSource(source=p.source, weight=weight * p.weight / total) for p in inner]
    for part in parts:
        if next(part.source.records(0), None) is None:
            raise no_text(str(spec))
    return Mixture(parts=tuple(parts), pad_id=pad_id_of(tokenizer))


def local_paths(spec: str | Path) -> tuple[Path, ...]:
    """The files and folders on this machine that a specification names, as far as they exist."""
    paths = (Path(text) for text, _ in _terms(str(spec)))
    return tuple(path for path in paths if path.exists())


def _terms(spec: str) -> list[tuple[str, float]]:
    if not spec.strip():
        raise HydraHeadError("no data was named", mend="give a path, builtin or hf:NAME")
    if Path(spec).exists():
        return [(spec, 1.0)]
    terms: list[tuple[str, float]] = []
    for term in spec.split("+"):
        text, star, number = term.strip().rpartition("*")
        if not star:
            terms.append((number, 1.0))
            continue
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not weight > 0:
            raise HydraHeadError(f"{number!r} is not a weight", where=spec, mend="write SOURCE*0.7")
        terms.append((text.strip(), weight))
    return terms


def _parts_of(text: str, request: _Request) -> list[WeightedSource]:
    kind, _, rest = text.partition(":")
    if kind in _KINDS and not Path(text).exists():
        return _KINDS[kind](rest, request)
    if not Path(text).exists():
        mend = did_you_mean(text, _KINDS) or "check the path"
        raise HydraHeadError("no such file or folder", where=text, mend=mend)
    longest_piece = max(_PIECE_CHARACTERS, _CHARACTERS_PER_TOKEN * request.length)
    source = FileSource(Path(text), request.tokenizer, piece_characters=longest_piece)
    return [WeightedSource(source=source, weight=1.0)]


def _builtin(settings: str, request: _Request) -> list[WeightedSource]:
    pairs = [item.partition("=") for item in settings.split(",") if item]
    values = {key.strip(): value for key, _, value in pairs}
    recall = validate(BuiltinSettings, values, where=f"builtin:{settings}").recall
    parts: list[WeightedSource] = []
    if recall < 1:
        parts.append(WeightedSource(source=BuiltinText(request.tokenizer), weight=1 - recall))
    if recall > 0:
        samples = RecallSource(request.tokenizer, max_length=request.length, seed=request.seed)
        parts.append(WeightedSource(source=samples, weight=recall))
    return parts


def _hub(address: str, request: _Request) -> list[WeightedSource]:
    source = HubSource(HubAddress.parse(address), request.tokenizer)
    return [WeightedSource(source=source, weight=1.0)]


_KINDS: dict[str, Callable[[str, _Request], list[WeightedSource]]] = {
    "builtin": _builtin,
    "hf": _hub,
}
