"""What an evaluation has to do: one cell per task, length and depth, known before the start."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.seeds import derive_seed
from hydrahead.evaluation.subjects import Subject
from hydrahead.tasks.base import TaskBase
from hydrahead.tasks.sample import Sample
from hydrahead.tasks.table import build_task, suite_tasks

DEFAULT_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SHORT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPlan:
    """One cell to fill: `count` samples of a task."""

    task: TaskBase
    length: int
    depth: float | None
    count: int

    @property
    def key(self) -> tuple[str, int, float | None]:
        """What tells cells of one model apart."""
        return (self.task.name, self.length, self.depth)

    def samples(self, subject: Subject, seed: int) -> list[Sample]:
        """The cell's samples in the model's own tokens; the same for every batch size."""
        return [self.sample(subject, seed, index) for index in range(self.count)]

    def sample(self, subject: Subject, seed: int, index: int) -> Sample:
        """Sample number `index`, from a stream that no training or probe of that seed reads."""
        return self.task.sample(
            subject.codec,
            length=self.length,
            seed=derive_seed(seed, "evaluation"),
            index=index,
            depth=self.depth,
        )


def requested_tasks(
    suite: str | Sequence[str] | None, tasks: str | Sequence[str] | None
) -> tuple[TaskBase, ...]:
    """Tasks by suite or by name.

    Raises:
        HydraHeadError: neither or both were named, or a name is unknown.
    """
    if (suite is None) == (tasks is None):
        raise HydraHeadError("name either a suite or tasks", mend="for instance --suite niah")
    if tasks is None:
        names = suite_tasks([suite] if isinstance(suite, str) else list(suite or ()))
    else:
        names = [tasks] if isinstance(tasks, str) else list(tasks)
    found = {task.name: task for task in map(build_task, names)}
    if not found:
        raise HydraHeadError("no task was named", mend="for instance --tasks niah_single")
    return tuple(found.values())


def chosen_depths(depths: Sequence[float] | None, samples: int) -> tuple[float, ...]:
    """The depths to use; without a request five, or fewer where there are fewer samples.

    Raises:
        HydraHeadError: a depth outside 0 ... 1, one named twice, or more depths than samples.
    """
    if depths is None:
        return DEFAULT_DEPTHS if samples >= len(DEFAULT_DEPTHS) else DEFAULT_DEPTHS[2:3]
    for depth in depths:
        if not 0.0 <= depth <= 1.0:
            raise HydraHeadError(f"depth {depth} is outside 0 ... 1", mend="0 is the start")
    if not depths or len(set(depths)) < len(depths):
        raise HydraHeadError("depths must be named, each once", mend="for instance 0,0.5,1")
    if len(depths) > samples:
        raise HydraHeadError(
            f"{samples} samples cannot be spread over {len(depths)} depths",
            mend="ask for more samples or fewer depths",
        )
    return tuple(float(depth) for depth in depths)


def plan_cells(
    tasks: Sequence[TaskBase], lengths: Sequence[int], depths: Sequence[float], samples: int
) -> list[CellPlan]:
    """All cells; the samples of a task and length are spread evenly over the depths."""
    cells: list[CellPlan] = []
    for task in tasks:
        places: Sequence[float | None] = depths if task.has_depth else (None,)
        share, rest = divmod(samples, len(places))
        for length in lengths:
            cells += [
                CellPlan(task=task, length=length, depth=place, count=share + (number < rest))
                for number, place in enumerate(places)
            ]
    return cells


def check_lengths(subjects: Sequence[Subject], cells: Sequence[CellPlan], seed: int) -> None:
    """Refuse what cannot work, before any work.

    Raises:
        HydraHeadError: a context longer than a model's, or too short for a task.
    """
    for subject in subjects:
        limit = subject.max_positions
        longest = max(cell.length for cell in cells)
        if limit is not None and longest > limit:
            raise HydraHeadError(
                f"length {longest} is beyond the model's context of {limit} tokens",
                where=f"model {subject.name}",
                mend=f"ask for lengths up to {limit}, or extend the model first",
            )
        for cell in cells:
            # Whether a sample fits depends on its words by a few tokens: it matters in short ones.
            count = cell.count if cell.length <= _SHORT else 1
            for index in range(count):
                cell.sample(subject, seed, index)
