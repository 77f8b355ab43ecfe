"""Record: the base of all schema models, and the one way from JSON to a model and back.

Unknown fields stay, absent fields stay absent and nulls stay null, so that what was read is what is written.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fib_plugin.schema.errors import SchemaError, from_validation

Name = Annotated[str, Field(min_length=1)]
Size = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """Immutable; `model_copy(update=...)` makes a changed one."""

    model_config = ConfigDict(extra="allow", frozen=True, ser_json_inf_nan="strings", protected_namespaces=())


R = TypeVar("R", bound=Record)


def decode(data: bytes, file: str | Path | None = None, line: int | None = None) -> dict[str, Any]:
    """JSON bytes of one object -> dict; SchemaError when they are not that."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        value = _decode_leniently(data, error, file, line)
    if not isinstance(value, dict):
        raise SchemaError(
            f"a JSON object is expected, found {type(value).__name__}",
            file=file,
            line=line,
            remedy="write the record as one JSON object",
        )
    return value


def _decode_leniently(data: bytes, error: Exception, file: str | Path | None, line: int | None) -> Any:
    # Bare NaN and Infinity are no JSON, but Python's json writes them and FlashInfer Trace readers take them.
    if b"NaN" in data or b"Infinity" in data:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            pass
    raise SchemaError(f"broken JSON: {error}", file=file, line=line, remedy="repair or remove it") from error


def parse(model: type[R], data: bytes | dict[str, Any], file: str | Path | None = None, line: int | None = None) -> R:
    """Read one record. `file` and `line` only place the error.

    >>> parse(Workload, b'{"axes": {"M": 4}, "inputs": {"A": {"type": "random"}}, "uuid": "w1"}').axes
    {'M': 4}
    """
    fields = decode(data, file, line) if isinstance(data, bytes) else data
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, file, line) from error


def dump_line(record: Record) -> bytes:
    """One JSON line, without the newline."""
    return record.__pydantic_serializer__.to_json(record, exclude_unset=True)


def dump_pretty(record: Record) -> bytes:
    """An indented JSON document, as definitions and solutions are stored."""
    return record.__pydantic_serializer__.to_json(record, indent=2, exclude_unset=True) + b"\n"


def leaves_folder(path: str) -> str | None:
    """Why a relative path may not be followed, or None when it stays inside."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or (len(path) > 1 and path[1] == ":"):
        return "the path is absolute"
    if ".." in pure.parts:
        return "the path leaves its folder through '..'"
    if not pure.parts or "\0" in path:
        return "the path names no file"
    return None
