"""The tasks there are, the suites made of them, and how a name with settings becomes a task."""

from collections.abc import Mapping, Sequence

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.core.jsonio import validate
from hydrahead.core.tables import Table
from hydrahead.tasks.base import TaskBase

TASKS = Table(
    "task",
    {
        "niah_single": "hydrahead.tasks.niah_single:NiahSingle",
        "niah_multikey": "hydrahead.tasks.niah_multikey:NiahMultikey",
        "niah_rounds": "hydrahead.tasks.niah_rounds:NiahRounds",
        "niah_multivalue": "hydrahead.tasks.niah_multivalue:NiahMultivalue",
        "niah_multiquery": "hydrahead.tasks.niah_multiquery:NiahMultiquery",
        "variable_tracking": "hydrahead.tasks.variable_tracking:VariableTracking",
        "mqar": "hydrahead.tasks.mqar:Mqar",
        "general": "hydrahead.tasks.general:General",
        "copy_spans": "hydrahead.tasks.copy_spans:CopySpans",
    },
)

SUITES: Mapping[str, tuple[str, ...]] = {
    "niah": ("niah_single", "niah_multikey:keys=2", "niah_multikey"),
    "ruler": (
        "niah_single",
        "niah_multikey",
        "niah_multivalue",
        "niah_multiquery",
        "variable_tracking",
    ),
    "mqar": ("mqar",),
    "general": ("general",),
}


def build_task(name: str) -> TaskBase:
    """A task from its table name and settings: `niah_multikey:keys=4,digits=6`.

    Raises:
        HydraHeadError: an unknown task or setting (with a suggestion), or a value that does not
        fit.
    """
    kind, _, settings = name.partition(":")
    task: type[TaskBase] = TASKS.load(kind.strip())
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in settings.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise HydraHeadError(
                f"{part!r} is no setting", where=f"task {name!r}", mend="write key=value"
            )
        values[key.strip()] = value.strip()
    return validate(task, values, where=f"task {name!r}")


def split_names(text: str) -> tuple[str, ...]:
    """Task names out of a comma-separated list: `niah_multikey:keys=2,digits=4,mqar` names two."""
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if names and "=" in part and ":" not in part:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return tuple(names)


def suite_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Task names of several suites together, each once, in order.

    Raises:
        HydraHeadError: an unknown suite, with a suggestion.
    """
    found: dict[str, None] = {}
    for name in names:
        if name not in SUITES:
            raise unknown_name("suite", name, SUITES)
        found.update(dict.fromkeys(SUITES[name]))
    return tuple(found)
