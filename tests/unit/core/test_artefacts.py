"""Directory artefacts: made whole, resumed, reused, refused."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from hydrahead.core import artefacts
from hydrahead.core.artefacts import ArtefactWork, fingerprint, open_artefact, read_record
from hydrahead.core.errors import HydraHeadError, UnusableInput
from torch_free import PREAMBLE


def opened(out: Path, **changes: Any) -> AbstractContextManager[ArtefactWork]:
    settings: dict[str, Any] = {"kind": "scores", "configuration": {"lengths": [1, 2]}, "seed": 0}
    return open_artefact(out, **{**settings, **changes})


def make(out: Path, content: str = "payload", **changes: Any) -> None:
    with opened(out, **changes) as work:
        assert not work.reused
        (work.directory / "scores.txt").write_text(content)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "scores"


def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def test_a_clean_exit_leaves_the_artefact_and_nothing_else(out: Path) -> None:
    with opened(out) as work:
        assert (work.reused, work.resumed) == (False, False)
        assert work.directory == partial(out)
        (work.scratch / "progress").write_text("half")
        (work.directory / "scores.txt").write_text("payload")
        work.note_backend("gated_delta", "reference")
    assert sorted(path.name for path in out.parent.iterdir()) == ["scores"]
    assert sorted(path.name for path in out.iterdir()) == ["artifact.json", "scores.txt"]
    record = read_record(out)
    assert record.backends == {"gated_delta": "reference"}
    assert record.payload_bytes == {"scores.txt": 7}
    assert record.configuration == {"lengths": [1, 2]}


def test_a_finished_artefact_is_reused(out: Path) -> None:
    make(out)
    with opened(out) as work:
        assert (work.reused, work.directory) == (True, out)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"kind": "plan"}, 'kind was "scores", now "plan"'),
        (
            {"configuration": {"lengths": [1, 3]}},
            r"configuration.lengths was \[1, 2\], now \[1, 3\]",
        ),
        (
            {"configuration": {"lengths": [1, 2], "deep": {"x": True}}},
            "configuration.deep was not given, now",
        ),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"seed": None}, "seed was 0, now not given"),
        ({"parents": {"teacher": "ab" * 32}}, "parents.teacher was not given, now abababababab"),
    ],
)
def test_another_identity_is_refused_naming_the_difference(
    out: Path, changes: dict[str, Any], difference: str
) -> None:
    make(out)
    with pytest.raises(HydraHeadError, match=difference), opened(out, **changes):
        pytest.fail("must not get here")
    assert not partial(out).exists()
    assert (out / "scores.txt").read_text() == "payload"


def test_a_changed_parent_is_another_identity(out: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "model.safetensors").write_bytes(b"1234")
    make(out, parents={"teacher": teacher})
    (teacher / "model.safetensors").write_bytes(b"1235")
    with pytest.raises(HydraHeadError, match=r"parents\.teacher was"):
        make(out, parents={"teacher": str(teacher)})


def test_a_missing_parent_is_refused_before_anything_is_made(out: Path, tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match="no such file or directory"):
        make(out, parents={"teacher": tmp_path / "none"})
    assert not out.parent.exists()


def test_force_replaces_an_artefact_when_the_new_one_is_whole(out: Path) -> None:
    make(out, "old")
    with opened(out, seed=1, force=True) as work:
        (work.directory / "new.txt").write_text("new")
        assert (out / "scores.txt").read_text() == "old"
    assert sorted(path.name for path in out.iterdir()) == ["artifact.json", "new.txt"]
    assert [path.name for path in out.parent.iterdir()] == ["scores"]


def test_force_keeps_what_is_the_same_already(out: Path) -> None:
    make(out)
    with opened(out, force=True) as work:
        assert work.reused
    assert sorted(path.name for path in out.iterdir()) == ["artifact.json", "scores.txt"]


@pytest.mark.parametrize("force", [False, True])
def test_nothing_but_an_artefact_is_replaced(out: Path, force: bool) -> None:
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(HydraHeadError, match="not a hydrahead artefact"):
        make(out, force=force)
    assert (out / "thesis.tex").exists()


def test_an_empty_directory_may_be_filled(out: Path) -> None:
    out.mkdir(parents=True)
    make(out)
    assert read_record(out).kind == "scores"


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_damage_to_a_finished_artefact_is_found(out: Path, damage: str) -> None:
    make(out)
    file = out / "scores.txt"
    if damage == "missing":
        file.unlink()
    else:
        file.write_text({"truncated": "pay", "changed": "PAYLOAD"}[damage])
    with pytest.raises(HydraHeadError, match=r"was changed after it was made: .*(--force)"):
        make(out)
    make(out, force=True)


def test_a_truncated_record_is_named_and_forced(out: Path) -> None:
    make(out)
    (out / "artifact.json").write_text('{"kind": "sco')
    with pytest.raises(HydraHeadError, match=r"artifact.json: is not valid JSON"):
        make(out)
    make(out, force=True)


def test_a_user_mistake_removes_the_partial(out: Path) -> None:
    def fail() -> None:
        with opened(out) as work:
            (work.directory / "half").write_text("x")
            raise HydraHeadError("bad weights")

    with pytest.raises(HydraHeadError, match="bad weights"):
        fail()
    assert not out.parent.exists()


@pytest.mark.parametrize("how", ["scratch", "marked"])
def test_a_late_mistake_keeps_what_can_be_resumed(out: Path, how: str) -> None:
    def fail() -> None:
        with opened(out) as work:
            if how == "scratch":
                (work.scratch / "step_900").write_text("x")
            else:
                work.mark_resumable()
            raise HydraHeadError("bad batch")

    with pytest.raises(HydraHeadError):
        fail()
    with opened(out) as work:
        assert work.resumed


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_an_interrupted_run_is_resumed_by_the_same_command(
    out: Path, error: type[BaseException]
) -> None:
    def fail() -> None:
        with opened(out) as work:
            (work.directory / "half").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert not out.exists()
    with opened(out) as work:
        assert work.resumed
        assert (work.directory / "half").read_text() == "x"
    assert (out / "half").exists()


def interrupt(out: Path, **changes: Any) -> None:
    def run() -> None:
        with opened(out, **changes) as work:
            (work.directory / "half").write_text("x")
            (work.scratch / "step").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()


def test_another_command_on_half_done_work_is_refused(out: Path) -> None:
    interrupt(out)
    with pytest.raises(HydraHeadError, match="half done by another command: seed was 0, now 1"):
        make(out, seed=1)
    assert (partial(out) / "half").exists()


def test_force_drops_half_done_work_of_another_command(out: Path) -> None:
    interrupt(out)
    with opened(out, seed=1, force=True) as work:
        assert not work.resumed
        assert not (work.directory / "half").exists()
        assert list(work.scratch.iterdir()) == []


def test_a_forced_run_that_was_interrupted_resumes(out: Path) -> None:
    make(out)
    interrupt(out, seed=1, force=True)
    assert read_record(out).seed == 0
    with opened(out, seed=1, force=True) as work:
        assert work.resumed
    assert read_record(out).seed == 1


def test_an_unusable_input_leaves_nothing_even_of_resumed_work(out: Path) -> None:
    interrupt(out)
    with pytest.raises(UnusableInput), opened(out):
        raise UnusableInput("tensor 'x' holds NaN")
    assert list(out.parent.iterdir()) == []


def test_time_is_added_up_over_resumes(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([100.0, 130.0, 500.0, 507.0])
    monkeypatch.setattr(artefacts.time, "monotonic", lambda: next(seconds))
    interrupt(out)
    make(out)
    assert read_record(out).wall_seconds == 37.0


KILLED = (
    PREAMBLE
    + """
import sys, time
from pathlib import Path
from hydrahead.core.artefacts import open_artefact
same = {"configuration": {"lengths": [1, 2]}, "seed": 0}
with open_artefact(Path(sys.argv[1]), kind="scores", **same) as work:
    (work.directory / "half").write_text("x")
    print("ready", flush=True)
    time.sleep(600)
"""
)


def test_a_second_process_is_refused_and_a_killed_one_blocks_nobody(out: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(HydraHeadError, match="another process is writing it"):
            make(out)
        first.send_signal(signal.SIGKILL)
    with opened(out) as work:
        assert work.resumed
        assert (work.directory / "half").read_text() == "x"


def test_a_kill_at_any_step_of_the_last_moments_leaves_old_or_new(
    out: Path, tmp_path: Path
) -> None:
    """The process dies at the n-th step of finishing; for every n the same command mends it."""
    script = textwrap.dedent("""
        import os, sys, shutil
        from pathlib import Path
        from hydrahead.core import artefacts
        remaining = int(sys.argv[2])
        def dying(function):
            def call(*arguments, **keywords):
                global remaining
                remaining -= 1
                if remaining < 0:
                    os._exit(9)
                return function(*arguments, **keywords)
            return call
        with artefacts.open_artefact(
            Path(sys.argv[1]), kind="scores", configuration={}, seed=1, force=True
        ) as work:
            (work.directory / "new").write_text("new")
            os.fsync = dying(os.fsync)
            Path.rename, Path.replace = dying(Path.rename), dying(Path.replace)
            shutil.rmtree = dying(shutil.rmtree)
    """)
    survived = None
    for step in range(20):
        here = out.with_name(f"scores{step}")
        make(here, "old", configuration={})
        done = subprocess.run(
            [sys.executable, "-c", PREAMBLE + script, str(here), str(step)], check=False
        )
        files = {path.name for path in here.iterdir()} if here.exists() else set()
        assert not files or {"artifact.json"} < files
        with opened(here, configuration={}, seed=1, force=True) as work:
            (work.directory / "new").write_text("new")
        assert sorted(path.name for path in here.iterdir()) == ["artifact.json", "new"]
        assert not partial(here).exists()
        if done.returncode == 0:
            survived = step
            break
        assert done.returncode == 9
    assert survived is not None
    assert survived > 5


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_working(out: Path, code: int) -> None:
    def fail() -> None:
        with opened(out) as work:
            (work.directory / "half").write_text("x")
            raise OSError(code, os.strerror(code))

    with pytest.raises(HydraHeadError, match="scores: no space left on the disk; free some"):
        fail()
    assert not out.parent.exists()


def test_a_full_disk_keeps_what_can_be_resumed(out: Path) -> None:
    interrupt(out)

    def fail() -> None:
        with opened(out):
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(HydraHeadError, match="no space left"):
        fail()
    with opened(out) as work:
        assert work.resumed


def test_a_full_disk_while_finishing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(HydraHeadError, match="no space left"), opened(out) as work:  # noqa: PT012
        (work.directory / "half").write_text("x")
        monkeypatch.setattr(os, "fsync", full)
    assert not out.parent.exists()


def test_a_stranger_in_the_way_of_the_partial_is_left_alone(out: Path) -> None:
    partial(out).mkdir(parents=True)
    (partial(out) / "mine").write_text("x")
    with pytest.raises(HydraHeadError, match="in the way and is not ours"):
        make(out)
    assert (partial(out) / "mine").exists()


def test_no_name_to_write_to() -> None:
    with pytest.raises(HydraHeadError, match="no name for an artefact"):
        make(Path())


def test_a_configuration_that_is_not_data_is_our_own_bug(out: Path) -> None:
    with pytest.raises(TypeError, match="cannot be part of an artefact's configuration"):
        make(out, configuration={"model": object()})


def test_the_fingerprint_of_an_artefact_is_its_payload(out: Path) -> None:
    make(out)
    make(out.with_name("other"), seed=5)
    assert fingerprint(out) == read_record(out).payload_sha256
    assert fingerprint(out) == fingerprint(out.with_name("other"))
