"""Definition: what it refuses, and the shapes it works out."""

from typing import Any

import pytest

from fib_plugin.schema import AxisConst, AxisVar, Definition, DType, SchemaError, TensorSpec, dump_line, parse

GEMM: dict[str, Any] = {
    "name": "gemm_n8_k4",
    "op_type": "gemm",
    "axes": {"M": {"type": "var"}, "N": {"type": "const", "value": 8}, "K": {"type": "const", "value": 4}},
    "inputs": {
        "A": {"shape": ["M", "K"], "dtype": "bfloat16"},
        "B": {"shape": ["N", "K"], "dtype": "bfloat16"},
        "scale": {"shape": None, "dtype": "float32"},
    },
    "outputs": {"C": {"shape": ["M", "N"], "dtype": "bfloat16"}},
    "reference": "def run(A, B, scale):\n    return A @ B.T * scale\n",
}


def gemm(**changed: Any) -> Definition:
    return parse(Definition, {**GEMM, **changed}, "gemm.json")


def refusal(**changed: Any) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        gemm(**changed)
    assert caught.value.file == "gemm.json"
    assert caught.value.remedy
    return caught.value


def test_constants_and_variables_are_told_apart() -> None:
    assert gemm().const_axes == {"N": 8, "K": 4}
    assert gemm().var_axes == ["M"]


def test_variable_axes_are_read_off_the_input_shapes() -> None:
    assert gemm().axis_values([(3, 4), (8, 4), None]) == {"M": 3}


@pytest.mark.parametrize(
    "shapes", [[(3, 4), (9, 4), None], [(3, 5), (8, 4), None], [(3,), (8, 4), None], [(3, 4), (8, 4)]]
)
def test_shapes_that_contradict_the_definition_are_refused(shapes: list[Any]) -> None:
    with pytest.raises(ValueError, match="gemm_n8_k4"):
        gemm().axis_values(shapes)


def test_two_inputs_that_disagree_on_an_axis_are_refused() -> None:
    definition = gemm(axes={**GEMM["axes"], "K": {"type": "var"}})
    assert definition.axis_values([(3, 6), (8, 6), None]) == {"M": 3, "K": 6}
    with pytest.raises(ValueError, match="axis K is 6"):
        definition.axis_values([(3, 6), (8, 7), None])


def test_an_axis_that_no_input_carries_has_no_value() -> None:
    definition = gemm(axes={**GEMM["axes"], "Z": {"type": "var"}})
    with pytest.raises(ValueError, match="Z"):
        definition.axis_values([(3, 4), (8, 4), None])


def test_shapes_follow_from_the_axes() -> None:
    assert gemm().output_shapes({"M": 3}) == [(3, 8)]
    assert gemm().input_shapes({"M": 3}) == [(3, 4), (8, 4), None]


def test_a_missing_axis_value_is_named() -> None:
    with pytest.raises(ValueError, match="'M'"):
        gemm().output_shapes({})


def test_a_reference_without_run_is_refused() -> None:
    error = refusal(reference="class A:\n    def run(self): ...\n")
    assert (error.field, "run" in error.problem) == ("reference", True)


def test_a_reference_that_is_not_python_is_refused() -> None:
    assert refusal(reference="def run(:\n").field == "reference"


def test_an_undeclared_axis_is_named_with_the_tensor_that_uses_it() -> None:
    error = refusal(outputs={"C": {"shape": ["M", "Q"], "dtype": "bfloat16"}})
    assert error.field == "outputs.C.shape"
    assert "'Q'" in error.problem


def test_overlapping_input_and_output_names_are_refused() -> None:
    error = refusal(outputs={"A": {"shape": ["M"], "dtype": "bfloat16"}})
    assert error.field == "outputs"
    assert "A" in error.problem


def test_a_constraint_must_be_an_expression() -> None:
    assert gemm(constraints=["M <= N", " K % 2 == 0"]).constraints == ["M <= N", " K % 2 == 0"]
    assert refusal(constraints=["M <= N", "M = N"]).field == "constraints.1"


def test_text_with_braces_survives_in_the_message() -> None:
    assert "{x}" in str(refusal(constraints=["{x} y"]))


def test_an_unknown_dtype_is_refused_by_field() -> None:
    assert refusal(inputs={"A": {"shape": ["M"], "dtype": "float7"}}).field == "inputs.A.dtype"


def test_an_axis_of_unknown_type_is_refused_by_field() -> None:
    assert refusal(axes={**GEMM["axes"], "M": {"type": "dynamic"}}).field == "axes.M"


def test_every_problem_of_a_record_is_reported() -> None:
    error = refusal(name="", inputs={"A": {"shape": ["M"]}})
    assert [one.field for one in error.flat()] == ["name", "inputs.A.dtype"]


def test_axes_made_in_python_are_written_with_their_type() -> None:
    definition = Definition(
        name="d",
        op_type="o",
        axes={"M": AxisVar(), "N": AxisConst(value=2)},
        inputs={"x": TensorSpec(shape=["M"], dtype=DType.INT8)},
        outputs={"y": TensorSpec(shape=["N"], dtype=DType.INT8)},
        reference="def run(x): ...",
    )
    assert b'"axes":{"M":{"type":"var"},"N":{"type":"const","value":2}}' in dump_line(definition)


def test_a_dtype_prints_as_its_value() -> None:
    assert f"{DType.BFLOAT16} {DType.INT8!s}" == "bfloat16 int8"
