"""Names with settings, suites, and what is said of wrong ones."""

import pytest

from hydrahead.core.errors import HydraHeadError
from hydrahead.tasks import SUITES, TASKS, build_task, suite_tasks
from hydrahead.tasks.base import Task, contains_whole
from hydrahead.tasks.table import split_names


@pytest.mark.parametrize("name", TASKS.names())
def test_every_entry_loads_under_its_own_name(name):
    task = build_task(name)
    assert task.name == task.kind == name
    assert isinstance(task, Task)


def test_a_name_says_the_settings_that_are_not_default():
    assert build_task("niah_multikey:keys=4").name == "niah_multikey"
    assert build_task(" niah_multikey : digits=4, keys=2 ").name == "niah_multikey:digits=4,keys=2"
    assert build_task(build_task("mqar:pairs=32").name) == build_task("mqar:pairs=32")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("niah_singel", "did you mean 'niah_single'"),
        ("niah_multikey:kyes=3", "did you mean 'keys'"),
        ("niah_multikey:keys=many", "keys: .*integer"),
        ("niah_multikey:keys", "write key=value"),
        ("niah_multikey:keys=1", "keys: .*greater than or equal to 2"),
        ("mqar:pairs=2,queries=4", "queries=4 is more than pairs=2"),
        ("niah_multiquery:queries=9", "queries=9 is more than keys=4"),
        ("copy_spans:shortest=40", "shortest=40 is more than longest=12"),
        ("general:item=nothing", "item: .*attribute"),
    ],
)
def test_wrong_names_and_settings_are_named(name, message):
    with pytest.raises(HydraHeadError, match=message):
        build_task(name)


def test_suites_name_tasks_that_exist_each_once():
    for suite in SUITES:
        assert [build_task(name).name for name in suite_tasks([suite])] == list(SUITES[suite])
    both = suite_tasks(["niah", "ruler"])
    assert len(both) == len(set(both))
    with pytest.raises(HydraHeadError, match="did you mean 'ruler'"):
        suite_tasks(["rulers"])


def test_a_list_of_names_keeps_settings_together():
    assert split_names("niah_multikey:keys=2,digits=4, mqar,copy_spans:longest=8") == (
        "niah_multikey:keys=2,digits=4",
        "mqar",
        "copy_spans:longest=8",
    )


@pytest.mark.parametrize(
    ("text", "target", "found"),
    [
        (" 48213.", "48213", True),
        ("48213", "48213", True),
        (" 482135", "48213", False),
        ("148213", "48213", False),
        (" KXQ, PLM", "PLM", True),
        (" KXQPLM", "PLM", False),
        ("", "1", False),
    ],
)
def test_targets_count_as_whole_words_only(text, target, found):
    assert contains_whole(text, target) is found
