"""The built-in tolerances: complete, for op types that exist, and refused in words when they cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fib_plugin import ops
from fib_plugin.ops.tolerance import read_tolerances
from fib_plugin.schema import SchemaError
from fib_plugin.schema.definition import DType

FILE = Path(ops.__file__).with_name("tolerances.yaml")
PLAIN = "{atol: 0.1, rtol: 0.1}"
DTYPES = "".join(f"  {dtype.value}: {PLAIN}\n" for dtype in DType)


def refusal(tmp_path: Path, text: str) -> SchemaError:
    file = tmp_path / "tolerances.yaml"
    file.write_text(text)
    with pytest.raises(SchemaError) as caught:
        read_tolerances(file)
    assert caught.value.file == str(file)
    assert caught.value.remedy
    return caught.value


def test_every_dtype_has_a_tolerance() -> None:
    definition = ops.ALL["gemm"].definition(n=8, k=8)
    spec = definition.outputs["C"]
    for dtype in DType:
        changed = {"outputs": {"C": spec.model_copy(update={"dtype": dtype})}, "op_type": "none"}
        found = ops.tolerance(definition.model_copy(update=changed))
        exact = dtype.value.startswith(("int", "bool"))
        assert (found == ops.Tolerance(0.0, 0.0)) is exact, dtype


def test_an_op_type_has_tolerances_of_its_own_where_the_file_has_them() -> None:
    gemm = ops.tolerance(ops.ALL["gemm"].definition(n=8, k=8))
    norm = ops.tolerance(ops.ALL["rmsnorm"].definition(hidden_size=8, eps=1e-5))
    assert gemm == ops.Tolerance(3e-2, 2e-2, 0.999)
    assert norm == ops.Tolerance(2e-2, 1.6e-2, 1.0)


def test_the_file_names_only_op_types_that_exist() -> None:
    assert set(yaml.safe_load(FILE.read_text())["op_types"]) <= {spec.op_type for spec in ops.ALL.values()}


def test_the_file_is_found_wherever_the_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_tolerances(FILE).of("gemm", "float32") == ops.Tolerance(1e-4, 1e-4)


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "tolerances.yaml"
    file.write_text(f"dtypes:\n{DTYPES}op_types: {{gemm: {{float32: {{atol: 1e-4, rtol: -0e1}}}}}}\n")
    assert read_tolerances(file).of("gemm", "float32") == ops.Tolerance(1e-4, 0.0)


def test_a_dtype_without_an_entry_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path, f"dtypes: {{float32: {PLAIN}}}\nop_types: {{}}\n")
    assert error.field == "dtypes"
    assert "bfloat16" in error.problem


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ("{atol: 0.1}", "op_types.gemm.float32.rtol"),
        ("{atol: -1, rtol: 0}", "op_types.gemm.float32.atol"),
        ("{atol: '0.1', rtol: 0}", "op_types.gemm.float32.atol"),
        ("{atol: .inf, rtol: 0}", "op_types.gemm.float32.atol"),
        ("{atol: 0, rtol: true}", "op_types.gemm.float32.rtol"),
        ("{atol: 0, rtol: 0, matched_ratio: 0}", "op_types.gemm.float32.matched_ratio"),
        ("{atol: 0, rtol: 0, matched_ratio: 1.5}", "op_types.gemm.float32.matched_ratio"),
        ("{atol: 0, rtol: 0, ratio: 1}", "op_types.gemm.float32.ratio"),
        ("{atol: 0, atol: 1, rtol: 0}", "atol"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(entry: str, field: str, tmp_path: Path) -> None:
    error = refusal(tmp_path, f"dtypes:\n{DTYPES}op_types: {{gemm: {{float32: {entry}}}}}\n")
    assert error.field == field


@pytest.mark.parametrize(("text", "line"), [("dtypes: {float32\n", 2), ("a: [1\nb: 2", 2), ("- 1\n", None), ("", None)])
def test_what_is_no_mapping_is_refused(text: str, line: int | None, tmp_path: Path) -> None:
    assert refusal(tmp_path, text).line == line
