"""JSON files: read with errors that name the place, written whole or not at all.

What we write is standard JSON: NaN and infinity are refused. What we read may be anybody's.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hydrahead.core.errors import HydraHeadError, did_you_mean

_DAMAGED = "the file may be truncated or damaged: make it again"

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def read_json(path: Path | str) -> Any:
    """The content of a JSON file.

    Raises:
        HydraHeadError: The file is missing, not a file, unreadable, not text, or not valid JSON
            (with line and column).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise HydraHeadError("no such file", where=path, mend="check the path") from None
    except IsADirectoryError:
        raise HydraHeadError(
            "is a directory, a JSON file is needed", where=path, mend="name the file"
        ) from None
    except PermissionError:
        raise HydraHeadError("permission denied", where=path, mend="make it readable") from None
    except UnicodeDecodeError:
        raise HydraHeadError("is not a UTF-8 text file", where=path, mend=_DAMAGED) from None
    return parse_json(text, where=path)


def parse_json(text: str, *, where: Path | str) -> Any:
    """Parsed JSON text.

    Raises:
        HydraHeadError: The text is not valid JSON; names `where`, line and column.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        reason = "is empty" if not text.strip() else f"is not valid JSON ({error.msg}, {place})"
        raise HydraHeadError(reason, where=where, mend=_DAMAGED) from None
    except RecursionError:
        raise HydraHeadError(
            "is not usable JSON (nested too deeply)", where=where, mend=_DAMAGED
        ) from None


def write_json(path: Path | str, obj: Any) -> None:
    """Write `obj` as indented JSON, atomically: a reader sees the old file or the whole new one.

    Raises:
        ValueError: `obj` holds NaN or infinity.
        TypeError: `obj` holds something JSON does not know.
    """
    write_text(path, json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically and flush it to the disk."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def validate(model: type[AnyModel], data: Mapping[str, Any], *, where: Path | str) -> AnyModel:
    """`data` as a pydantic model.

    Raises:
        HydraHeadError: The first field that does not fit, with its place; an unknown key gets a
            suggestion.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise validation_error(error, model=model, where=where) from None


def validation_error(
    error: ValidationError, *, model: type[BaseModel], where: Path | str
) -> HydraHeadError:
    """The one-line error for pydantic's first complaint."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and first["loc"]:
        name = str(first["loc"][-1])
        known = tuple(model.model_fields) if len(first["loc"]) == 1 else ()
        listed = f"known: {', '.join(known)}" if known else "leave it out"
        return HydraHeadError(
            f"unknown key {field!r}", where=where, mend=did_you_mean(name, known) or listed
        )
    if first["type"] == "missing":
        return HydraHeadError(f"key {field!r} is missing", where=where, mend="add it")
    message = first["msg"].removeprefix("Value error, ")
    return HydraHeadError(f"{field}: {message}" if field else message, where=where)
