"""The short way to a solution's content hash says what the schema's says, whatever the file spells out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fib_plugin import ops
from fib_plugin.dataset import TraceSet
from fib_plugin.dispatch import catalog_solutions
from fib_plugin.dispatch.catalog_solutions import read_solution
from fib_plugin.pack import pack
from fib_plugin.schema import BuildSpec, SchemaError, Solution, content_hash, parse

PLAIN: dict[str, Any] = {
    "name": "plain",
    "definition": "gather",
    "author": "someone",
    "spec": {"language": "python", "target_hardware": ["cpu"], "entry_point": "main.py::run"},
    "sources": [{"path": "main.py", "content": "def run(*args): ..."}],
}


def hashed(content: Any) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_solution(data, "x.json", "x.json").hash


def by_schema(content: Any) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return content_hash(parse(Solution, data))


def with_spec(**changed: Any) -> dict[str, Any]:
    return {**PLAIN, "spec": {**PLAIN["spec"], **changed}}


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
SPEC = st.fixed_dictionaries(
    {
        "language": st.sampled_from(["python", "triton", "cpp", "cuda", "tilelang"]),
        "target_hardware": st.lists(st.text(max_size=5), min_size=1, max_size=3),
        "entry_point": st.just("main.py::run"),
    },
    optional={
        "dependencies": st.lists(TEXT, max_size=3),
        "destination_passing_style": st.booleans() | st.sampled_from(["true", "no", 0, 1]),
        "binding": st.sampled_from([None, "tvm-ffi", "torch"]),
        "their_own": ANY_JSON,
    },
)


@given(spec=SPEC, definition=TEXT, content=TEXT, others=st.dictionaries(TEXT, TEXT, max_size=3), extra=ANY_JSON)
def test_both_hash_every_solution_alike(
    spec: dict[str, Any], definition: str, content: str, others: dict[str, str], extra: Any
) -> None:
    others = {
        f"s/{path.replace(':', '').replace('/', '').replace(chr(92), '').replace(chr(0), '')}x": text
        for path, text in others.items()
    }
    sources = [{"path": path, "content": text, "note": extra} for path, text in {**others, "main.py": content}.items()]
    made = {**PLAIN, "definition": definition, "spec": spec, "sources": sources, "more": extra}
    assert hashed(made) == by_schema(made)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"dependencies": []},
        {"destination_passing_style": True, "binding": None},
        {"destination_passing_style": False},
        {"binding": "torch"},
        {"vendor": {"flags": ["-O3"], "weight": 1.5}},
    ],
)
def test_defaults_and_fields_of_others_are_hashed_alike(changed: dict[str, Any]) -> None:
    assert hashed(with_spec(**changed)) == by_schema(with_spec(**changed))


def test_a_default_that_is_spelt_out_changes_nothing() -> None:
    assert hashed(with_spec(dependencies=[], destination_passing_style=True, binding=None)) == hashed(PLAIN)


def test_bare_infinities_which_are_no_json_are_hashed_alike() -> None:
    text = json.dumps(with_spec(weight=float("inf"))).encode()
    assert b"Infinity" in text
    assert hashed(text) == by_schema(text)


def test_the_models_are_not_built_for_a_plain_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_schema(PLAIN)
    monkeypatch.setattr(catalog_solutions, "parse", None)
    assert hashed(PLAIN) == expected
    assert hashed(with_spec(dependencies=["tiré"])) != expected


def test_the_fields_of_the_spec_are_those_of_the_schema() -> None:
    """One more there would enter the schema's hash by its default."""
    assert set(catalog_solutions._Spec.__struct_fields__) == set(BuildSpec.model_fields)


def test_every_shipped_solution_is_hashed_alike(tmp_path: Path) -> None:
    traces = TraceSet.from_path(tmp_path)
    for definition in (
        ops.ALL["gemm"].definition(n=64, k=64, dtype="float32"),
        ops.ALL["rmsnorm"].definition(hidden_size=64, eps=1e-5),
        ops.ALL["silu_and_mul"].definition(d=64),
        ops.ALL["moe"].definition(topk=2, num_experts=4, hidden_size=64, intermediate_size=64),
        ops.ALL["gqa_paged_decode"].definition(num_qo_heads=8, num_kv_heads=2, head_dim=64),
    ):
        traces.add_definition(definition)
    packed = pack(tmp_path)
    assert len(packed) >= 5
    for file in (tmp_path / "solutions").rglob("*.json"):
        found = read_solution(file.read_bytes(), str(file), file.name)
        assert found.hash == by_schema(file.read_bytes())
        assert (found.name, found.file) == (file.stem, file.name)


@pytest.mark.parametrize(
    "broken", [b"{", b"[]", b"\xff", {}, {**PLAIN, "sources": []}, {**PLAIN, "author": ""}, with_spec(language="basic")]
)
def test_what_is_no_solution_is_the_schemas_error_with_the_file(broken: Any) -> None:
    with pytest.raises(SchemaError, match=r"x\.json"):
        hashed(broken)
