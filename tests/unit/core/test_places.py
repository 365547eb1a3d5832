"""Nothing is written inside what is known by a hash of everything in it."""

from pathlib import Path

import pytest

from hydrahead.core.artefacts import open_artefact, write_file_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.places import refuse_inside


def make(out: Path) -> Path:
    with open_artefact(out, kind="scores", configuration={}):
        pass
    return out


def test_neither_an_artefact_nor_a_file_goes_into_an_artefact(tmp_path: Path) -> None:
    outer = make(tmp_path / "scores")
    before = sorted(outer.rglob("*"))
    with pytest.raises(HydraHeadError, match=r"lies inside .*scores, an artefact"):
        make(outer / "deep" / "more")
    with pytest.raises(HydraHeadError, match=r"lies inside .*scores, an artefact"):
        write_file_artefact(outer / "plan.json", kind="plan", payload={}, configuration={})
    assert sorted(outer.rglob("*")) == before


def test_a_model_directory_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    refuse_inside(tmp_path / "runs" / "scores")  # a project's own settings, not a model's
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(HydraHeadError, match="a model directory"):
        refuse_inside(tmp_path / "runs" / "scores")


def test_inputs_are_directories_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = tmp_path / "texts"
    texts.mkdir()
    with pytest.raises(HydraHeadError, match="an input that it would change"):
        refuse_inside(Path("texts/out"), [texts])
    refuse_inside(Path("out"), [texts, "ab" * 32, "random, seed 3"])
    refuse_inside(texts, [texts])  # another one's business: it exists already
