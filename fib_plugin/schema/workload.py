"""Workload: one concrete call of a definition: the sizes of its variable axes and where each input comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, field_validator

from fib_plugin.schema.errors import rule
from fib_plugin.schema.record import Name, Record, Size, leaves_folder


class RandomInput(Record):
    """Values do not matter: any tensor of the right shape and type will do."""

    type: Literal["random"] = "random"

    def model_post_init(self, context: Any, /) -> None:
        # `type` has a default, but an input without it cannot be told apart by other readers: always write it.
        self.__pydantic_fields_set__.add("type")


class ScalarInput(Record):
    """A literal number or truth value."""

    type: Literal["scalar"] = "scalar"
    value: bool | int | float

    def model_post_init(self, context: Any, /) -> None:
        self.__pydantic_fields_set__.add("type")

    @field_validator("value", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        # JSON has no infinity and no NaN; those come as strings, other strings are mistakes.
        if isinstance(value, str) and value.lstrip("+-").lower() not in ("inf", "infinity", "nan"):
            raise rule(f"a scalar is a number or a truth value, found the string {value!r}", remedy="drop the quotes")
        return value


class SafetensorsInput(Record):
    """A tensor saved in a safetensors file; the path is relative to the dataset's root."""

    type: Literal["safetensors"] = "safetensors"
    path: Name
    tensor_key: Name

    def model_post_init(self, context: Any, /) -> None:
        self.__pydantic_fields_set__.add("type")

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        why = leaves_folder(path)
        if why:
            raise rule(f"{why}: {path}", remedy="use a path relative to the dataset's root, such as blob/workloads/...")
        return path


def _input_tag(value: Any) -> str | None:
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind is None:
            kind = "safetensors" if "path" in value else "scalar" if "value" in value else "random"
    else:
        kind = getattr(value, "type", None)
    return f"<{kind}>"


InputSpec = Annotated[
    Annotated[RandomInput, Tag("<random>")]
    | Annotated[ScalarInput, Tag("<scalar>")]
    | Annotated[SafetensorsInput, Tag("<safetensors>")],
    Discriminator(
        _input_tag,
        custom_error_type="unknown_type",
        custom_error_message="an input has the type 'random', 'scalar' (with a value) or 'safetensors' "
        "(with path and tensor_key)",
    ),
]


class Workload(Record):
    """Sizes of the variable axes, a source for each input, and an identifier."""

    axes: dict[str, Size]
    inputs: dict[str, InputSpec]
    uuid: Name
