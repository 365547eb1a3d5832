"""Progress: lines at intervals off a terminal, a bar on one, nothing when silent."""

import io

import pytest

from hydrahead.core.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_off_a_terminal_a_line_appears_every_interval() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(stream=stream, interval_seconds=10, clock=clock) as progress:
        task = progress.task("align", 100)
        for _ in range(50):
            clock.seconds += 1
            task.advance(loss=0.123456, tokens_per_second=4000)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0] == "align 10/100 10% left 1:30 loss=0.1235 tokens_per_second=4000"


def test_resumed_work_does_not_count_as_speed() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(stream=stream, interval_seconds=1, clock=clock) as progress:
        task = progress.task("score", 1000, done=900)
        clock.seconds += 10
        task.advance(10)
    assert stream.getvalue() == "score 910/1000 91% left 1:30\n"


def test_a_total_need_not_be_known() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(stream=stream, interval_seconds=1, clock=clock) as progress:
        task = progress.task("read")
        clock.seconds += 3700
        task.advance(5)
    assert stream.getvalue() == "read 5\n"


def test_on_a_terminal_a_bar_is_drawn_and_removed() -> None:
    stream = Terminal()
    with Progress(stream=stream) as progress:
        progress.task("convert", 3).advance(loss=1.5)
    assert "convert" in stream.getvalue()
    assert "loss=1.5" in stream.getvalue()


def test_track_yields_everything_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(interval_seconds=0, clock=clock) as progress:
        assert list(progress.track("abc", total=3, label="letters")) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == "letters 3/3 100%"


def test_silent_means_silent() -> None:
    stream = Terminal()
    with Progress(stream=stream, interval_seconds=0, silent=True) as progress:
        progress.task("x", 1).advance()
    assert stream.getvalue() == ""


def test_a_narrow_terminal_shortens_the_bar_and_not_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(stream=stream) as progress:
        task = progress.task("evaluate small_teacher", 360, done=78)
        task.advance(1, task="niah_multikey:keys=2", length=256)
    assert "79/360" in stream.getvalue()
