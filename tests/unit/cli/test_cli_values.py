"""How option values are read."""

from pathlib import Path

import pytest

from hydrahead.cli_frame import assignments, names, numbers, read_prompt
from hydrahead.core.errors import HydraHeadError


def test_lists() -> None:
    assert names(" a, b,,c ") == ("a", "b", "c")
    assert numbers("1024, 2K,1m", int, option="--lengths") == (1024, 2048, 1 << 20)
    assert numbers("0,0.5", float, option="--depths") == (0.0, 0.5)


@pytest.mark.parametrize("text", ["1024;2048", "many", "1.5"])
def test_a_list_that_is_none(text: str) -> None:
    with pytest.raises(HydraHeadError, match=r"--lengths: .* is no list of numbers"):
        numbers(text, int, option="--lengths")


def test_settings_nest_and_keep_their_types() -> None:
    given = ["align.steps=10", "align.lr=1e-3", "data=text", "flag=true", 'list=["a"]']
    assert assignments(given) == {
        "align": {"steps": 10, "lr": 1e-3},
        "data": "text",
        "flag": True,
        "list": ["a"],
    }
    assert assignments(None) == {}


@pytest.mark.parametrize(
    "given", [["a"], ["a=1", "a=2"], ["a=1", "a.b=2"], ["=1"], ["a.b=1", "a=2"]]
)
def test_settings_that_clash(given: list[str]) -> None:
    with pytest.raises(HydraHeadError, match="cannot read"):
        assignments(given)


def test_a_prompt_file_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\xff\xfe")
    with pytest.raises(HydraHeadError, match="not a UTF-8 text"):
        read_prompt(None, tmp_path / "p")
