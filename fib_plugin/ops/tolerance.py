"""Default tolerances by dtype and op type, from tolerances.yaml: the one place that bench and guard read.

`evaluation_config` calls it, and lays the dataset's own values over it.
"""

from __future__ import annotations

import functools
from pathlib import Path

from pydantic import Field

from fib_plugin.dataset.evaluation import NotNegative, Share
from fib_plugin.dataset.yaml_file import YamlModel, read_yaml
from fib_plugin.ops.spec import Tolerance, dtype_name
from fib_plugin.schema import Definition, SchemaError
from fib_plugin.schema.definition import DType

_FILE = Path(__file__).with_name("tolerances.yaml")


class _Entry(YamlModel):
    atol: NotNegative
    rtol: NotNegative
    matched_ratio: Share = 1.0


class Tolerances(YamlModel):
    """The file: an entry for every dtype, and those of op types that need others."""

    dtypes: dict[DType, _Entry] = Field(description="dtype: {atol, rtol, matched_ratio}")
    op_types: dict[str, dict[DType, _Entry]] = Field(description="op type: {dtype: {atol, rtol, matched_ratio}}")

    def of(self, op_type: str, dtype: str) -> Tolerance:
        """The tolerance for outputs of ``dtype``."""
        entry = self.op_types.get(op_type, {}).get(DType(dtype)) or self.dtypes[DType(dtype)]
        return Tolerance(entry.atol, entry.rtol, entry.matched_ratio)


def read_tolerances(file: Path) -> Tolerances:
    """Tolerances from a file.

    Raises:
        SchemaError: a value cannot be used, or a dtype has none.
    """
    tolerances = read_yaml(Tolerances, file)
    missing = [dtype.value for dtype in DType if dtype not in tolerances.dtypes]
    if missing:
        raise SchemaError(
            f"no tolerance for {', '.join(missing)}", file=file, field="dtypes", remedy="give each dtype an entry"
        )
    return tolerances


def tolerance(definition: Definition) -> Tolerance:
    """The default tolerance of a definition; integer outputs must be equal (atol 0)."""
    return _built_in().of(definition.op_type, dtype_name(next(iter(definition.outputs.values())).dtype))


@functools.lru_cache(maxsize=1)
def _built_in() -> Tolerances:
    return read_tolerances(_FILE)
