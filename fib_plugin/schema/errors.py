"""SchemaError: what is wrong with one record, where, and what to do about it. Raised by everything that loads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError


class SchemaError(ValueError):
    """One problem of one record. `more` holds the further problems of the same record, if it has several."""

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        remedy: str = "",
        more: Iterable[SchemaError] = (),
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.line = line
        self.field = field
        self.remedy = remedy
        self.more = tuple(more)
        super().__init__(problem)

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}"
        parts = [part for part in (place, self.field, self.problem) if part]
        text = ": ".join(parts)
        if self.remedy:
            text += f" ({self.remedy})"
        if self.more:
            text += f" [and {len(self.more)} more in this record]"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.problem, self.file, self.line, self.field, self.remedy, self.more)

    def located(self, file: str | Path | None, line: int | None = None) -> SchemaError:
        """The same problem, placed in a file; a place that is already known is kept."""
        return SchemaError(
            self.problem,
            file=self.file or file,
            line=self.line if self.line is not None else line,
            field=self.field,
            remedy=self.remedy,
            more=(error.located(file, line) for error in self.more),
        )

    def flat(self) -> list[SchemaError]:
        """Every problem of the record as an error of its own."""
        first = SchemaError(self.problem, file=self.file, line=self.line, field=self.field, remedy=self.remedy)
        return [first, *(error for other in self.more for error in other.flat())]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: the parts under their own names."""
        return {
            "file": self.file,
            "line": self.line,
            "field": self.field,
            "problem": self.problem,
            "remedy": self.remedy,
        }


def _rebuild(
    problem: str,
    file: str | None,
    line: int | None,
    field: str | None,
    remedy: str,
    more: tuple[SchemaError, ...],
) -> SchemaError:
    return SchemaError(problem, file=file, line=line, field=field, remedy=remedy, more=more)


def rule(problem: str, *, field: str = "", remedy: str = "") -> PydanticCustomError:
    """The error a validator of ours raises: pydantic adds the path of the model, we add field and remedy."""
    # Braces in user text would be read as placeholders by pydantic, so the text travels in the context.
    return PydanticCustomError("fib_rule", "{problem}", {"problem": problem, "field": field, "remedy": remedy})


_REMEDIES = {
    "missing": "add the field",
    "enum": "use one of the values named above",
    "literal_error": "use one of the values named above",
    "unknown_type": "use one of the types named above",
    "string_too_short": "give it a value",
    "too_short": "give it at least one element",
    "string_type": "write it as a JSON string",
    "int_type": "write it as an integer",
    "int_parsing": "write it as an integer",
    "dict_type": "write it as a JSON object",
    "list_type": "write it as a JSON array",
    "model_type": "write it as a JSON object",
    "greater_than_equal": "use a value in the allowed range",
}

# Union tags show up in pydantic's error path although no file has such a key.
_TAGS = frozenset({"<const>", "<var>", "<random>", "<scalar>", "<safetensors>"})


def from_validation(error: ValidationError, file: str | Path | None = None, line: int | None = None) -> SchemaError:
    """Turn pydantic's report into ours: the first problem, with the others of the record attached."""
    found = [_one(detail, file, line) for detail in error.errors(include_url=False, include_input=False)]
    first, *rest = found
    return SchemaError(first.problem, file=file, line=line, field=first.field, remedy=first.remedy, more=rest)


def _one(detail: Any, file: str | Path | None, line: int | None) -> SchemaError:
    kind: str = detail["type"]
    context: dict[str, Any] = detail.get("ctx", {})
    path = [str(part) for part in detail["loc"] if part not in _TAGS]
    if kind == "fib_rule" and context.get("field"):
        path.append(str(context["field"]))
    remedy = str(context.get("remedy", "")) or _REMEDIES.get(kind, "")
    problem = "field is missing" if kind == "missing" else str(detail["msg"])
    return SchemaError(problem, file=file, line=line, field=".".join(path) or None, remedy=remedy)
