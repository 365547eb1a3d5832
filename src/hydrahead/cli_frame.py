"""What every verb of the command line shares: options, output, and errors on one line.

A verb returns an `Outcome`. With `--json` stdout carries exactly that, as one JSON object, and
whatever else is printed goes to stderr; without it stdout carries lines for people. A user's
mistake ends in one line on stderr and exit code 2; Ctrl-C says how to go on and ends in 130.
"""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console, RenderableType

from hydrahead.core.errors import HydraHeadError

Verb = Callable[..., "Outcome"]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a verb has to say."""

    data: Mapping[str, Any]
    """Plain JSON, for `--json`."""
    lines: Sequence[RenderableType] = field(default_factory=tuple[RenderableType, ...])
    """The same for people."""


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; without arguments it shows its help."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    bases = typer.BadParameter.__mro__  # typer has moved the base of its usage errors about
    usage_error = next(base for base in bases if base.__name__ == "ClickException")
    try:
        code = app(args=arguments, prog_name="hydrahead", standalone_mode=False)
    except HydraHeadError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(_os_error(error))
    except MemoryError:
        return _complain("out of memory; try a smaller --batch-size or shorter lengths")
    except usage_error as error:  # type: ignore[misc]
        return _complain(_usage(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return _complain("out of GPU memory; try a smaller --batch-size or shorter lengths")
    return code if isinstance(code, int) else 0


def verb(app: typer.Typer, *, name: str | None = None) -> Callable[[Verb], Verb]:
    """Register a function as a verb; its docstring is the help, its `Outcome` is printed."""

    def register(function: Verb) -> Verb:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            as_json = bool(options.get("json"))
            stdout = sys.stdout
            quiet = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
            try:
                with quiet:
                    outcome = function(*arguments, **options)
            except KeyboardInterrupt as error:
                goes_on = "; the same command goes on where it stopped" if "out" in options else ""
                how = f"; {error}" if str(error) else goes_on
                print(f"hydrahead: interrupted{how}", file=sys.stderr)
                raise typer.Exit(130) from None
            if as_json:
                print(json.dumps(outcome.data, ensure_ascii=False, allow_nan=False), file=stdout)
                return
            console = Console(file=stdout, highlight=False)
            for line in outcome.lines:  # a file or pipe gets every line whole
                console.print(line, markup=False, soft_wrap=not console.is_terminal)

        app.command(name or function.__name__)(run)
        return function

    return register


def pick_device(device: str) -> str:
    """`auto` made definite."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str, kind: Callable[[str], Number], *, option: str) -> tuple[Number, ...]:
    """A comma-separated list of numbers; `4K` is 4096.

    Raises:
        HydraHeadError: Something in it is no number.
    """
    try:
        return tuple(_number(part, kind) for part in names(text))
    except ValueError:
        mend = "give numbers with commas between them, for example 1024,2048"
        raise HydraHeadError(f"{text!r} is no list of numbers", where=option, mend=mend) from None


def assignments(given: Sequence[str] | None) -> dict[str, Any]:
    """Repeated KEY=VALUE options as a dictionary; `a.b=1` nests. Values are JSON, else text.

    Raises:
        HydraHeadError: No "=", or one key twice.
    """
    settings: dict[str, Any] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        *path, last = key.strip().split(".")
        place = settings
        for part in path:
            place = place.setdefault(part, {})
        if not equals or not last or not isinstance(place, dict) or last in place:
            mend = "give each setting once, as KEY=VALUE"
            raise HydraHeadError(f"cannot read {text!r}", where="--set", mend=mend)
        try:
            place[last] = json.loads(value)
        except json.JSONDecodeError:
            place[last] = value
    return settings


def read_prompt(text: str | None, file: Path | None) -> str:
    """The prompt of `--prompt` or `--prompt-file`.

    Raises:
        HydraHeadError: Both, neither, or a file that is no text.
    """
    if (text is None) == (file is None):
        what = "no prompt was given" if text is None else "two prompts were given"
        raise HydraHeadError(what, mend="give either --prompt or --prompt-file")
    if file is None:
        return text or ""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        mend = "give a text file"
        raise HydraHeadError("is not a UTF-8 text file", where=file, mend=mend) from None
    except OSError as error:
        mend = "check the path"
        raise HydraHeadError(_words(error), where=file, mend=mend) from None


def _number(text: str, kind: Callable[[str], Number]) -> Number:
    factors = {"k": 1024, "m": 1024**2}
    factor = factors.get(text[-1:].lower(), 1)
    return kind(text[:-1]) * factor if factor > 1 else kind(text)


def _complain(line: str) -> int:
    print(f"hydrahead: {' '.join(line.split())}", file=sys.stderr)
    return 2


def _usage(error: BaseException) -> str:
    """A wrong option or verb; `format_message` is where typer puts its words."""
    message = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "hydrahead"
    return f"{message.rstrip('.')} (see {path} --help)"


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{_words(error)}"


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
