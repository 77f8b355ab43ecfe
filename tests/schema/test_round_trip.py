"""JSON in is JSON out: for each record, at every level of nesting, unknown fields and nulls included."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fib_plugin.schema import Correctness, Definition, Record, Solution, Trace, Workload, dump_line, dump_pretty, parse

# What an unknown field may hold. Its name cannot be that of a field we know.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
extras = st.dictionaries(st.text(min_size=1).map(lambda name: f"x_{name}"), values, max_size=2)
names = st.text(min_size=1, max_size=12)
sizes = st.integers(0, 2**40)
numbers = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
dtypes = st.sampled_from(["float32", "bfloat16", "float8_e4m3fn", "float4_e2m1", "int64", "bool"])


def record(required: dict[str, Any], optional: dict[str, Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    """An object with all required fields, some optional ones and some that nobody knows."""
    known = st.fixed_dictionaries(required, optional=optional or {})
    return st.builds(lambda fields, more: {**more, **fields}, known, extras)


axes = st.one_of(
    record({"type": st.just("const"), "value": sizes}, {"description": st.none() | st.text()}),
    record({"type": st.just("var")}, {"description": st.none() | st.text()}),
)
AXES = ("M", "N", "K")
tensors = record(
    {"shape": st.none() | st.lists(st.sampled_from(AXES), max_size=3), "dtype": dtypes},
    {"description": st.none() | st.text()},
)
definitions = record(
    {
        "name": names,
        "op_type": names,
        "axes": st.fixed_dictionaries(dict.fromkeys(AXES, axes)),
        "inputs": st.dictionaries(names.map(lambda name: f"in_{name}"), tensors, max_size=3),
        "outputs": st.dictionaries(names.map(lambda name: f"out_{name}"), tensors, max_size=3),
        "reference": st.just("import torch\n\ndef run(x):\n    return x\n"),
    },
    {
        "tags": st.lists(names, max_size=2),
        "description": st.none() | st.text(),
        "constraints": st.lists(st.sampled_from(["M == N + 1", "K % 16 == 0"]), max_size=2),
    },
)
inputs = st.one_of(
    record({"type": st.just("random")}),
    record({"type": st.just("scalar"), "value": st.booleans() | st.integers(-(2**53), 2**53) | numbers}),
    record({"type": st.just("safetensors"), "path": st.just("./blob/workloads/a.safetensors"), "tensor_key": names}),
)
workloads = record(
    {
        "axes": st.dictionaries(names, sizes, max_size=3),
        "inputs": st.dictionaries(names, inputs, max_size=3),
        "uuid": names,
    }
)
specs = record(
    {
        "language": st.sampled_from(["python", "triton", "cpp", "cuda", "tilelang"]),
        "target_hardware": st.lists(st.text(), min_size=1, max_size=2),
        "entry_point": st.just("src/main.py::run"),
    },
    {
        "dependencies": st.lists(names, max_size=2),
        "destination_passing_style": st.booleans(),
        "binding": st.sampled_from([None, "torch", "tvm-ffi"]),
    },
)
solutions = record(
    {
        "name": names,
        "definition": names,
        "author": names,
        "spec": specs,
        "sources": record({"path": st.just("src/main.py"), "content": names}).map(lambda source: [source]),
    },
    {"description": st.none() | st.text()},
)
error_sizes = numbers | st.sampled_from(["Infinity", "NaN"])
correctness = record(
    {}, {"max_relative_error": error_sizes, "max_absolute_error": error_sizes, "extra": st.none() | extras}
)
performance = record({}, {"latency_ms": numbers, "reference_latency_ms": numbers, "speedup_factor": numbers})
ran = {
    "environment": record({"hardware": names}, {"libs": st.dictionaries(names, st.text(), max_size=2)}),
    "timestamp": names,
}
evaluations = st.one_of(
    record({**ran, "status": st.just("PASSED"), "correctness": correctness, "performance": performance}),
    record({**ran, "status": st.just("INCORRECT_NUMERICAL"), "correctness": correctness}, {"performance": st.none()}),
    record(
        {**ran, "status": st.sampled_from(["RUNTIME_ERROR", "COMPILE_ERROR", "TIMEOUT", "INCORRECT_SHAPE"])},
        {"log": st.text(), "correctness": st.none(), "performance": st.none()},
    ),
)
traces = record(
    {"definition": names, "workload": workloads},
    {"solution": st.none() | names, "evaluation": st.none() | evaluations},
)


@pytest.mark.parametrize(
    ("model", "objects"),
    [(Definition, definitions), (Workload, workloads), (Solution, solutions), (Trace, traces)],
    ids=["definition", "workload", "solution", "trace"],
)
def test_json_in_is_json_out(model: type[Record], objects: st.SearchStrategy[dict[str, Any]]) -> None:
    @settings(max_examples=60, deadline=None)
    @given(objects)
    def check(value: dict[str, Any]) -> None:
        read = parse(model, json.dumps(value).encode())
        assert json.loads(dump_line(read)) == value
        assert json.loads(dump_pretty(read)) == value

    check()


def test_a_line_is_one_line() -> None:
    workload = parse(Workload, b'{"axes": {}, "inputs": {}, "uuid": "a\\nb", "note": "two\\nlines"}')
    assert b"\n" not in dump_line(workload)


def test_the_kind_of_a_scalar_is_kept() -> None:
    scalars = ",".join(f'"{name}":{{"type":"scalar","value":{name}}}' for name in ("true", "1", "1.0"))
    source = f'{{"axes":{{}},"inputs":{{{scalars}}},"uuid":"u"}}'.encode()
    assert dump_line(parse(Workload, source)) == source


def test_infinities_and_nan_are_strings_in_json_and_numbers_in_python() -> None:
    read = parse(Correctness, b'{"max_relative_error":"Infinity","max_absolute_error":"NaN"}')
    assert read.max_relative_error == math.inf
    assert math.isnan(read.max_absolute_error)
    assert dump_line(read) == b'{"max_relative_error":"Infinity","max_absolute_error":"NaN"}'


def test_bare_nan_as_python_writes_it_is_read() -> None:
    read = parse(Correctness, b'{"max_relative_error": NaN, "max_absolute_error": Infinity}')
    assert math.isnan(read.max_relative_error)
    assert dump_line(read) == b'{"max_relative_error":"NaN","max_absolute_error":"Infinity"}'


def test_a_missing_type_of_axis_or_input_is_recognised_and_written() -> None:
    workload = parse(
        Workload, b'{"axes":{},"inputs":{"a":{},"b":{"value":2},"c":{"path":"x","tensor_key":"k"}},"uuid":"u"}'
    )
    assert [source.type for source in workload.inputs.values()] == ["random", "scalar", "safetensors"]
    assert [source["type"] for source in json.loads(dump_line(workload))["inputs"].values()] == [
        "random",
        "scalar",
        "safetensors",
    ]
