"""Tables of strings: lazy, and helpful about typing errors."""

import sys

import pytest

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.tables import Table


def test_an_entry_is_imported_only_when_asked_for() -> None:
    sys.modules.pop("colorsys", None)
    table = Table("maths", {"hls": "colorsys:rgb_to_hls", "root": "math:sqrt"})
    assert table.names() == ("hls", "root")
    assert "colorsys" not in sys.modules
    assert table.load("hls")(0.0, 0.0, 0.0) == (0.0, 0.0, 0.0)


def test_an_unknown_name_gets_a_suggestion() -> None:
    table = Table("scorer", {"retrieval": "math:sqrt"})
    with pytest.raises(
        HydraHeadError, match="unknown scorer 'retreival'; did you mean 'retrieval'"
    ):
        table.load("retreival")


def test_membership_and_length() -> None:
    table = Table("scorer", {"a": "math:sqrt", "b": "math:cos"})
    assert "a" in table
    assert "c" not in table
    assert (list(table), len(table)) == (["a", "b"], 2)


def test_a_malformed_target_is_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="not module:name"):
        Table("scorer", {"a": "math.sqrt"})
