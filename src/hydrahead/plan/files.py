"""plan.json: a plan with the record of how it was made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydrahead.core.artefacts import write_file_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json
from hydrahead.core.records import refuse_other_kind
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.problems import is_object, refuse_unknown_keys


def write_plan(
    path: str | Path,
    plan: HeadPlan,
    *,
    configuration: Mapping[str, Any],
    report: Mapping[str, Any] | None = None,
    parents: Mapping[str, Path | str] | None = None,
    seed: int | None = None,
    force: bool = False,
) -> None:
    """Write the one-file artefact that `read_plan` reads.

    Args:
        path: the file; its folder is made.
        plan: what to write.
        configuration: everything that decided the plan but its parents
            (`PlannedResult.configuration`).
        report: counts worth keeping (`PlannedResult.report`).
        parents: what it was made from, such as {"scores": DIR}.
        seed: of the run, if anything was random.
        force: replace a plan made otherwise.

    Raises:
        HydraHeadError: `path` is something else than this plan, or the disk is full.
    """
    write_file_artefact(
        Path(path),
        kind="plan",
        payload={"plan": plan.to_dict(), "report": dict(report or {})},
        configuration=configuration,
        parents=parents,
        seed=seed,
        force=force,
    )


def read_plan(path: str | Path) -> HeadPlan:
    """The plan of a plan.json, of a hybrid's directory, or of a file with a bare `to_json`.

    Raises:
        HydraHeadError: no such file, not a plan, or a plan that breaks a rule.
    """
    path = Path(path)
    refuse_other_kind(path, ("plan", "model"), mend="give a plan.json or a hybrid")
    if path.is_dir():
        path = path / "config.json"
    data = read_json(path)
    if is_object(data) and "format_version" in data and "specs" in data:
        return HeadPlan.from_dict(data, where=path)
    if not is_object(data) or not is_object(data.get("plan")):
        raise HydraHeadError("holds no plan", where=path, mend="give a plan.json or a hybrid")
    if data.get("model_type") != "hydrahead":
        refuse_unknown_keys(data, ("artifact", "plan", "report"), where=str(path))
    return HeadPlan.from_dict(data["plan"], where=path)
