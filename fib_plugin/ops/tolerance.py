"""Default tolerances by dtype, op type and width of inputs, from tolerances.yaml: the one place bench and guard read.

`evaluation_config` calls it, and lays the dataset's own values over it.
"""

from __future__ import annotations

import functools
from pathlib import Path

from pydantic import Field

from fib_plugin.dataset.evaluation import NotNegative, Share
from fib_plugin.dataset.yaml_file import YamlModel, read_yaml
from fib_plugin.ops.spec import Tolerance, dtype_name, low_bit
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
    low_bit: dict[str, dict[DType, _Entry]] = Field(
        default_factory=dict, description="op type: {dtype: {atol, rtol, matched_ratio}}, for inputs of 8 bits or fewer"
    )

    def of(self, op_type: str, dtype: str, low_bit: bool = False) -> Tolerance:
        """The tolerance for outputs of ``dtype``; ``low_bit`` where an input is a float of 8 bits or fewer."""
        named = (self.low_bit, self.op_types) if low_bit else (self.op_types,)
        found = (entries.get(op_type, {}).get(DType(dtype)) for entries in named)
        entry = next((one for one in found if one is not None), None) or self.dtypes[DType(dtype)]
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
    dtype = dtype_name(next(iter(definition.outputs.values())).dtype)
    return _built_in().of(definition.op_type, dtype, low_bit(definition))


@functools.lru_cache(maxsize=1)
def _built_in() -> Tolerances:
    return read_tolerances(_FILE)
