"""Generated recall samples as documents: endless, numbered, the same on every machine."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.seeds import derive_seed, generator
from hydrahead.tasks import TASKS, build_task, codec_from_tokenizer, training_example
from hydrahead.training.data.documents import Document, DocumentSource


class RecallSource(DocumentSource):
    """Samples of recall tasks, learned on the answer and on what the prompt repeats.

    Args:
        tokenizer: A tokenizer of transformers.
        max_length: Longest document in tokens; lengths are spread evenly from half of it upwards.
        tasks: Task (with settings) -> weight; by default every task that fits `max_length`, alike.
        seed: The stream of samples.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        seed: int,
        tasks: Mapping[str, float] | None = None,
    ) -> None:
        self._codec = codec_from_tokenizer(tokenizer)
        self._max_length = max_length
        self._seed = seed
        weights = dict(tasks) if tasks is not None else self._fitting()
        self._tasks = [build_task(name) for name in weights]
        self._weights = list(weights.values())

    def _fitting(self) -> dict[str, float]:
        fitting: dict[str, float] = {}
        problem: HydraHeadError | None = None
        for name in TASKS.names():
            try:
                build_task(name).sample(self._codec, length=self._max_length, seed=0, index=0)
                fitting[name] = 1.0
            except HydraHeadError as error:
                problem = error
        if not fitting:
            assert problem is not None
            raise problem
        return fitting

    def records(self, start: int) -> Iterator[int]:
        """Numbers without end."""
        return itertools.count(start)

    def encode(self, record: int) -> list[Document]:
        """Sample number `record`; a task that does not fit the drawn length gets the longest."""
        rng = generator(self._seed, "recall", record)
        task = rng.choices(self._tasks, self._weights)[0]
        length = rng.randint(self._max_length // 2, self._max_length)
        seed = derive_seed(self._seed, "recall", task.name)
        try:
            sample = task.sample(self._codec, length=length, seed=seed, index=record)
        except HydraHeadError:
            sample = task.sample(self._codec, length=self._max_length, seed=seed, index=record)
        ids, mask = training_example(sample)
        return [Document(ids=ids, loss_mask=mask, splittable=False)]
