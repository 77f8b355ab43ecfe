"""YAML files that people write by hand: read into a checked model, with errors that name file, field and remedy.

Evaluation sidecars and the built-in tolerances are read through here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fib_plugin.schema import SchemaError
from fib_plugin.schema.errors import from_validation


class YamlModel(BaseModel):
    """Immutable; keys it does not know are errors, since a misspelt tolerance would silently mean the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=YamlModel)


def read_yaml(model: type[M], file: Path) -> M:
    """The content of ``file``.

    Raises:
        SchemaError: it cannot be read, is no YAML mapping, or does not fit ``model``.
    """
    try:
        content = _load(file.read_bytes())
    except OSError as error:
        raise SchemaError(f"cannot be read: {error}", file=file, remedy="see its owner and mode") from error
    except SchemaError as error:
        raise error.located(file) from None
    if not isinstance(content, dict):
        kind = "nothing" if content is None else type(content).__name__
        raise SchemaError(f"a mapping is expected, found {kind}", file=file, remedy=f"write {_fields(model)}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _with_remedies(from_validation(error, file), model) from error


def _load(data: bytes) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise SchemaError(
                    "the field is there twice", line=node.start_mark.line + 1, field=str(twice), remedy="keep one"
                )
            return super().construct_mapping(node, deep)

    # YAML 1.1 takes 1e-4 for text; whoever writes a tolerance means the number.
    number = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        return yaml.load(data, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise SchemaError(f"broken YAML: {problem}", line=line, remedy="repair or remove it") from error


def _with_remedies(error: SchemaError, model: type[YamlModel]) -> SchemaError:
    return SchemaError(
        error.problem,
        file=error.file,
        field=error.field,
        remedy=error.remedy or f"write {_fields(model)}",
        more=[_with_remedies(other, model) for other in error.more],
    )


def _fields(model: type[YamlModel]) -> str:
    return ", ".join(f"{name}: <{field.description}>" for name, field in model.model_fields.items())
