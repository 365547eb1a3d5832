"""The command line, run in the process of the test."""

import json
from typing import Any

import pytest

from hydrahead.cli import app
from hydrahead.cli_frame import run_app


class Shell:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        """stdout and stderr of a command that must end with `code`."""
        self.capsys.readouterr()
        got = run_app(app, [str(argument) for argument in arguments])
        captured = self.capsys.readouterr()
        assert got == code, captured.err
        return captured.out, captured.err

    def json(self, *arguments: object) -> dict[str, Any]:
        out, _ = self(*arguments, "--json")
        assert out.count("\n") == 1
        return json.loads(out)

    def mistake(self, *arguments: object) -> str:
        """The one line a mistake is told in."""
        out, err = self(*arguments, code=2)
        assert out == ""
        assert err.startswith("hydrahead: ")
        assert err.count("\n") == 1, err
        return err
