"""One-file artefacts (a plan) and reading records."""

import json
from pathlib import Path
from typing import Any

import pytest

from hydrahead.core.artefacts import (
    artefact_kind,
    fingerprint,
    read_record,
    require_kind,
    write_file_artefact,
)
from hydrahead.core.errors import HydraHeadError


def write(path: Path, payload: dict[str, Any] | None = None, **changes: Any) -> None:
    settings: dict[str, Any] = {"kind": "plan", "configuration": {"full_fraction": 0.25}, "seed": 0}
    write_file_artefact(path, payload=payload or {"layers": [1, 2]}, **{**settings, **changes})


def test_the_record_sits_beside_the_payload(tmp_path: Path) -> None:
    path = tmp_path / "deep/plan.json"
    write(path, parents={"scores": "ab" * 32})
    data = json.loads(path.read_text())
    assert data["layers"] == [1, 2]
    record = read_record(path)
    assert (record.kind, record.seed, record.parents) == ("plan", 0, {"scores": "ab" * 32})
    assert record.library_versions["python"]
    assert require_kind(path, "plan") == record


@pytest.mark.parametrize("force", [False, True])
def test_the_same_again_is_left_alone(tmp_path: Path, force: bool) -> None:
    write(tmp_path / "plan.json")
    before = (tmp_path / "plan.json").stat().st_mtime_ns
    write(tmp_path / "plan.json", force=force)
    assert (tmp_path / "plan.json").stat().st_mtime_ns == before


def test_another_identity_is_refused_and_forced(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write(path)
    with pytest.raises(HydraHeadError, match=r"configuration.full_fraction was 0.25, now 0.5"):
        write(path, configuration={"full_fraction": 0.5})
    write(path, configuration={"full_fraction": 0.5}, force=True)
    assert read_record(path).configuration == {"full_fraction": 0.5}


def test_other_content_under_the_same_identity_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "plan.json")
    with pytest.raises(HydraHeadError, match="exists with other content"):
        write(tmp_path / "plan.json", {"layers": [3]})
    write(tmp_path / "plan.json", {"layers": [3]}, force=True)
    assert json.loads((tmp_path / "plan.json").read_text())["layers"] == [3]


def test_an_edited_plan_is_another_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write(path)
    before = fingerprint(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers": [7, 2]}))
    assert fingerprint(path) != before
    with pytest.raises(HydraHeadError, match="was changed after it was made"):
        write(path)
    write(path, force=True)
    assert fingerprint(path) == before


def test_nothing_but_an_artefact_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    for force in (False, True):
        with pytest.raises(HydraHeadError, match="not a hydrahead artefact"):
            write(tmp_path / "notes.json", force=force)
        with pytest.raises(HydraHeadError, match="is a directory"):
            write(tmp_path, force=force)
    assert (tmp_path / "notes.json").read_text() == '{"mine": 1}'


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write(path)
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(HydraHeadError, match=r"newer hydrahead \(format 99.*update hydrahead"):
        read_record(path)


def test_kinds_of_what_is_not_an_artefact(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "list.json").write_text("[1]")
    assert artefact_kind(tmp_path / "a.txt") is None
    assert artefact_kind(tmp_path / "list.json") is None
    assert artefact_kind(tmp_path) is None
    assert artefact_kind(tmp_path / "none") is None
    with pytest.raises(HydraHeadError, match="not an artefact"):
        read_record(tmp_path / "list.json")


def test_the_wrong_kind_is_named(tmp_path: Path) -> None:
    write(tmp_path / "plan.json")
    with pytest.raises(HydraHeadError, match="of kind 'plan', one of kind 'scores' is needed"):
        require_kind(tmp_path / "plan.json", "scores")
