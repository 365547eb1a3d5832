"""One line naming what, where and the mend."""

import pickle
from pathlib import Path

import pytest

from hydrahead.core.errors import HydraHeadError, did_you_mean, unknown_name


def test_an_error_is_one_line_of_where_what_and_mend() -> None:
    error = HydraHeadError(
        "holds NaN\nin  layer 3", where=Path("model.st"), mend="download it again"
    )
    assert str(error) == "model.st: holds NaN in layer 3; download it again"
    assert (error.what, error.where) == ("holds NaN\nin  layer 3", "model.st")


def test_where_and_mend_may_be_missing() -> None:
    assert str(HydraHeadError("no plan")) == "no plan"


def test_an_error_survives_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(HydraHeadError("bad", where="x", mend="y")))
    assert str(error) == "x: bad; y"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("gated_detla", "did you mean 'gated_delta'?"),
        ("Gated-Delta", "did you mean 'gated_delta'?"),
        ("zzz", ""),
    ],
)
def test_suggestions(name: str, suggestion: str) -> None:
    assert did_you_mean(name, ["full", "gated_delta"]) == suggestion


def test_an_unknown_name_far_from_all_lists_them() -> None:
    assert str(unknown_name("mixer", "zzz", ["a", "b"])) == "unknown mixer 'zzz'; known: a, b"
    assert str(unknown_name("mixer", "zzz", [])) == "unknown mixer 'zzz'; there are none"
