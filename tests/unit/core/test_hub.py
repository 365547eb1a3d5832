"""Which names reach for Hugging Face, and what is said when they cannot be had."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.hub import fetch_model


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that Hugging Face was asked for; it has none of them."""
    names: list[str] = []

    def fetch(name: str, **settings: object) -> str:
        names.append(name)
        raise LocalEntryNotFoundError("Got: ConnectError")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    return names


def test_only_owner_and_name_are_asked_for(asked: list[str]) -> None:
    with pytest.raises(HydraHeadError, match="cannot be reached"):
        fetch_model("nobody/no-such-model", ("config.json",))
    assert asked == ["nobody/no-such-model"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("runs/repaird", "no such directory; did you mean 'repaired'?"),
        ("repaired", "no such directory; check the path; a Hugging Face name is OWNER/NAME"),
        (Path("nobody/model"), "nobody/model: no such directory; check the path"),
        ("./runs/x", "no such directory"),
        ("~/x", "no such directory"),
        ("/x", "no such directory"),
        ("a/b/c", "no such directory"),
        ("runs/", "no such directory"),
        ("", "no such directory"),
    ],
)
def test_a_mistyped_path_is_told_at_once(
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str | Path,
    words: str,
) -> None:
    (tmp_path / "runs" / "repaired").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HydraHeadError) as caught:
        fetch_model(model, ("config.json",))
    assert words in str(caught.value)
    assert asked == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [(GatedRepoError, "it is gated"), (RepositoryNotFoundError, "none of this name")],
)
def test_what_the_hub_says_is_told_in_few_words(
    monkeypatch: pytest.MonkeyPatch, kind: type[RepositoryNotFoundError], words: str
) -> None:
    response: Any = SimpleNamespace(headers={}, request=None)

    def fetch(name: str, **settings: object) -> str:
        raise kind("many\nlines", response=response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(HydraHeadError, match=words):
        fetch_model("someone/model", ("config.json",))
