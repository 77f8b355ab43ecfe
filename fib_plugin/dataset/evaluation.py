"""Sidecars that change how one definition is judged: fib/evaluation/<op_type>/<definition>.yaml.

`ops.evaluation_config` lays one over the defaults, `validate` checks them all.

    # fib/evaluation/gemm/gemm_n4096_k4096.yaml: every field is optional
    atol: 0.05
    matched_ratio: 0.995
    mutates: [A]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fib_plugin.dataset import layout
from fib_plugin.dataset.yaml_file import YamlModel, read_yaml
from fib_plugin.schema import Definition, SchemaError

NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]


class EvaluationOverride(YamlModel):
    """What a sidecar says; None leaves the default."""

    atol: NotNegative | None = Field(default=None, description="number, 0 or more")
    rtol: NotNegative | None = Field(default=None, description="number, 0 or more")
    matched_ratio: Share | None = Field(default=None, description="share above 0, up to 1")
    mutates: list[str] | None = Field(default=None, description="list of the inputs that the engine's op overwrites")


def evaluation_override(definition: Definition, root: Path) -> EvaluationOverride | None:
    """What the dataset below ``root`` says about judging ``definition``, or None when it says nothing.

    Raises:
        SchemaError: the file is no such sidecar, or names an input that the definition lacks.
    """
    file = layout.evaluation_file(root, definition)
    if not file.exists():
        return None
    override = read_yaml(EvaluationOverride, file)
    for index, name in enumerate(override.mutates or ()):
        if name not in definition.inputs:
            raise SchemaError(
                f"{definition.name} has no input {name!r}",
                file=file,
                field=f"mutates.{index}",
                remedy=f"name some of: {', '.join(definition.inputs)}",
            )
    return override


def check_overrides(root: Path, definitions: Mapping[str, Definition]) -> Iterator[tuple[Path, SchemaError | None]]:
    """Every file in the place of sidecars, with what is wrong with it."""
    folder = root / layout.EVALUATION
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        error: SchemaError | None = None
        definition = definitions.get(file.stem)
        if definition is None:
            error = SchemaError(
                f"names the unknown definition {file.stem!r}", file=file, remedy="rename it to <definition>.yaml"
            )
        elif file != layout.evaluation_file(root, definition):
            right = layout.evaluation_file(root, definition).relative_to(root)
            error = SchemaError("nothing reads it here", file=file, remedy=f"move it to {right}")
        else:
            try:
                evaluation_override(definition, root)
            except SchemaError as found:
                error = found
        yield file, error
