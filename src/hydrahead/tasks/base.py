"""What every task shares: settings as plain data, a seed per sample, a length it keeps."""

import re
from abc import ABC, abstractmethod
from random import Random
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.seeds import generator
from hydrahead.tasks.codec import TextCodec
from hydrahead.tasks.sample import Sample


@runtime_checkable
class Task(Protocol):
    """A seeded generator of samples and the rule that scores a generation."""

    has_depth: ClassVar[bool]

    @property
    def name(self) -> str:
        """Table name and the settings that are not the default: `niah_multikey:keys=2`."""
        ...

    def sample(
        self,
        codec: TextCodec,
        *,
        length: int,
        seed: int,
        index: int,
        depth: float | None = None,
    ) -> Sample:
        """Sample number `index` of the stream `seed`."""
        ...

    def max_new_tokens(self, codec: TextCodec) -> int:
        """Tokens a generation gets; enough for every right answer."""
        ...

    def score(self, generated: str, sample: Sample) -> float:
        """How right a generation is, in [0, 1]."""
        ...


class TaskBase(BaseModel, ABC):
    """Base of every task: fields are its settings, `kind` is its name in the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    has_depth: ClassVar[bool] = False
    """Whether `depth` moves the answer through the prompt; else no heat map makes sense."""

    @property
    def name(self) -> str:
        """Table name and the settings that are not the default: `niah_multikey:keys=2`."""
        changed = [
            f"{key}={value}"
            for key, value in self.model_dump().items()
            if value != type(self).model_fields[key].default
        ]
        return f"{self.kind}:{','.join(changed)}" if changed else self.kind

    def sample(
        self,
        codec: TextCodec,
        *,
        length: int,
        seed: int,
        index: int,
        depth: float | None = None,
    ) -> Sample:
        """Sample number `index` of the stream `seed`; the same on every machine.

        Args:
            codec: the model's own tokenizer.
            length: tokens; the prompt and `max_new_tokens` together stay within it, by less than
            about
                one filler sentence.
            seed: the stream. Streams of two tasks, lengths or depths share nothing.
            index: number of the sample in the stream.
            depth: where the answer lies, 0 (start) to 1 (end); None draws it. Tasks without
            `has_depth`
                ignore it.

        Raises:
            HydraHeadError: `length` is too short, `depth` is outside [0, 1].
        """
        if depth is not None and not 0.0 <= depth <= 1.0:
            raise HydraHeadError(f"depth {depth} is outside 0 ... 1", where=f"task {self.name}")
        label = "drawn" if depth is None or not self.has_depth else f"{depth:.6f}"
        rng = generator(seed, "task", self.name, length, index, label)
        return self._build(rng, codec, length, index, depth if self.has_depth else None)

    @abstractmethod
    def max_new_tokens(self, codec: TextCodec) -> int:
        """Tokens a generation gets; enough for every right answer."""

    def score(self, generated: str, sample: Sample) -> float:
        """Share of the targets that occur in `generated` as whole words or numbers."""
        found = sum(contains_whole(generated, target) for target in sample.targets)
        return found / len(sample.targets)

    @abstractmethod
    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample: ...

    def _budget(self, codec: TextCodec, length: int, fixed: int) -> int:
        """Tokens left for filler beside `fixed` ones."""
        needed = fixed + self.max_new_tokens(codec)
        if needed > length:
            raise HydraHeadError(
                f"{length} tokens are too few, this sample needs at least {needed}",
                where=f"task {self.name}",
                mend="ask for a longer length or fewer keys, values, hops or pairs",
            )
        return length - needed


def contains_whole(text: str, target: str) -> bool:
    """Whether `target` stands in `text` with no letter or digit glued to it."""
    return re.search(rf"(?<![^\W_]){re.escape(target)}(?![^\W_])", text) is not None
