"""Hashes that tell inputs apart without reading gigabytes."""

import os
from pathlib import Path

import pytest

from hydrahead.core import fingerprints
from hydrahead.core.artefacts import fingerprint
from hydrahead.core.errors import HydraHeadError


def model(directory: Path, weights: bytes = b"\x00" * 100) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(weights)
    return directory


def test_a_copied_model_has_the_same_hash(tmp_path: Path) -> None:
    assert fingerprint(model(tmp_path / "a")) == fingerprint(model(tmp_path / "b"))


def test_hidden_files_and_times_do_not_count(tmp_path: Path) -> None:
    directory = model(tmp_path / "a")
    before = fingerprint(directory)
    (directory / ".cache").mkdir()
    (directory / ".cache/x").write_text("y")
    os.utime(directory / "config.json", (1, 1))
    assert fingerprint(directory) == before


@pytest.mark.parametrize("change", ["weights", "name", "config", "deeper"])
def test_every_change_shows(tmp_path: Path, change: str) -> None:
    directory = model(tmp_path / "a")
    before = fingerprint(directory)
    if change == "weights":
        (directory / "model.safetensors").write_bytes(b"\x00" * 99 + b"\x01")
    elif change == "name":
        (directory / "model.safetensors").rename(directory / "model-1.safetensors")
    elif change == "config":
        (directory / "config.json").write_text('{"a":1}')
    else:
        (directory / "more").mkdir()
        (directory / "more/x.txt").write_text("")
    assert fingerprint(directory) != before


def test_large_files_are_sampled_to_their_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "WHOLE_FILE_BYTES", 1 << 20)
    path = tmp_path / "big"
    content = bytearray(os.urandom(3 << 20))
    path.write_bytes(content)
    before = fingerprint(path)
    for place in (0, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert fingerprint(path) != before
    path.write_bytes(content)
    assert fingerprint(path) == before


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match="no such file or directory"):
        fingerprint(tmp_path / "none")
