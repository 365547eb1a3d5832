"""The command line in a process of its own, which waits at a chosen moment to be interrupted.

Processes come from a fork server that has imported everything, so one costs no import of torch.
The moment is told by what is on the disk: the process stands still at the first flush after a file
has appeared, until it is killed or let go.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydrahead.core.tables import Table
from hydrahead.pipeline.conversion import (
    ConversionRun,
    EvaluateStep,
    PlanStep,
    RepairStep,
    ScoreStep,
)
from hydrahead.transfer.stage_base import DistillConfig

PATIENCE_SECONDS = 90.0
RECIPES = Table("recipe", {"short": "command_process:short"})
SHORT = {"steps": 4, "batch_size": 2, "accumulation": 1, "length": 32, "checkpoint_every": 1}

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["command_process", "hydrahead.cli", "hydrahead.cli_inspect"])


def short(teacher: str) -> ConversionRun:
    """A recipe that takes a second."""
    return ConversionRun(
        teacher=teacher,
        score=ScoreStep(method="random"),
        plan=PlanStep(full_fraction=0.5),
        repair=RepairStep(config=DistillConfig(train={"align": SHORT, "distill": SHORT})),
        evaluation=EvaluateStep(tasks=("niah_single",), lengths=(96,), samples=2, batch_size=1),
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    code: int
    """Its exit code; minus the signal that ended it."""
    printed: str
    """What it wrote, stdout and stderr."""


def interrupt(
    arguments: Sequence[str], *, number: int, once: Path, count: int, folder: Path
) -> Ended:
    """Run a command and send it a signal.

    Args:
        arguments: Of the command line.
        number: The signal.
        once: A pattern; the process is held when a file of this name is there.
        count: At the how-manieth flush after that.
        folder: For what the process prints, and for the mark it stands still at.
    """
    printed, mark = folder / "printed.txt", folder / "held"
    process = _SERVER.Process(target=_command, args=(list(arguments), once, count, printed, mark))
    process.start()
    assert process.pid is not None
    try:
        _wait(lambda: mark.exists() or not process.is_alive())
        assert mark.exists(), printed.read_text()
        os.kill(process.pid, number)
        mark.unlink()
        process.join(PATIENCE_SECONDS)
        assert process.exitcode is not None, "still running"
    finally:
        process.kill()
    return Ended(process.exitcode, printed.read_text())


def _command(arguments: list[str], once: Path, count: int, printed: Path, mark: Path) -> None:
    # A test run that was itself started in the background hands down an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    from hydrahead import cli
    from hydrahead.recipes import table

    with printed.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    table.RECIPES = RECIPES
    flush, flushes = os.fsync, 0

    def held_flush(descriptor: int) -> None:
        nonlocal flushes
        flush(descriptor)
        flushes += any(once.parent.glob(once.name))
        if flushes == count:
            mark.touch()
            _wait(lambda: not mark.exists())

    os.fsync = held_flush
    cli.main(arguments)


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)
