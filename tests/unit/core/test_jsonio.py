"""JSON in and out: whole or not at all, and errors with a place."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, validate, write_json


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    window: int = 4
    sinks: int


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None, "\u00fc"]})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None, "\u00fc"]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_truncated_json_names_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1,\n "b": ')
    with pytest.raises(HydraHeadError, match=r"a\.json: is not valid JSON .*line 2 column 7"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xff\xfe\x00", "not a UTF-8"), (b"[" * 100_000, "nested|not valid")],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(HydraHeadError, match=message):
        read_json(tmp_path / "a.json")


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match="no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(HydraHeadError, match="is a directory"):
        read_json(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"x": value})
    assert read_json(tmp_path / "a.json") == 1


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "a.json", 1)

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "a.json", 2)
    assert read_json(tmp_path / "a.json") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sinks": 1, "windw": 2}, r"f\.json: unknown key 'windw'; did you mean 'window'\?"),
        ({"sinks": 1, "zzz": 2}, "unknown key 'zzz'; known: window, sinks"),
        ({}, "key 'sinks' is missing"),
        ({"sinks": "many"}, "sinks: .*integer"),
    ],
)
def test_validation_errors_name_the_field(data: dict, message: str) -> None:
    with pytest.raises(HydraHeadError, match=message):
        validate(Settings, data, where="f.json")
