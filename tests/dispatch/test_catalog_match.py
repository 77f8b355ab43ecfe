"""The structural matcher: a definition in other words is found, one that demands anything else is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fib_plugin import ops
from fib_plugin.dataset import TraceSet
from fib_plugin.dispatch.catalog import Catalog
from fib_plugin.schema import AxisConst, AxisVar, Definition, DType, TensorSpec

DEFINITIONS: list[Definition] = [
    ops.ALL["gemm"].definition(n=6, k=8),
    ops.ALL["rmsnorm"].definition(hidden_size=64, eps=1e-5),
    ops.ALL["fused_add_rmsnorm"].definition(hidden_size=64, eps=1e-5),
    ops.ALL["silu_and_mul"].definition(d=16),
    ops.ALL["rope"].definition(head_dim=16, rotary_dim=8, is_neox=True),
    ops.ALL["gqa_paged_decode"].definition(num_qo_heads=8, num_kv_heads=2, head_dim=16),
    ops.ALL["gqa_paged_prefill"].definition(num_qo_heads=8, num_kv_heads=2, head_dim=16, page_size=64),
    ops.ALL["moe"].definition(topk=2, num_experts=4, hidden_size=8, intermediate_size=6),
    ops.ALL["top_k_sampling"].definition(vocab_size=32),
]
PICKED = st.sampled_from(DEFINITIONS)
WORDS = st.text("abcdefghij_", min_size=1, max_size=6)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("dataset")
    traces = TraceSet.from_path(root)
    for definition in DEFINITIONS:
        traces.add_definition(definition)
    return Catalog.open(root, tmp_path_factory.mktemp("cache"), None)


def changed(definition: Definition, **fields: Any) -> Definition:
    """A checked copy."""
    return Definition.model_validate({**definition.model_dump(mode="json"), **fields})


def tensors(specs: dict[str, TensorSpec], **replaced: dict[str, Any]) -> dict[str, Any]:
    return {name: {**spec.model_dump(mode="json"), **replaced.get(name, {})} for name, spec in specs.items()}


def with_input(definition: Definition, name: str, **fields: Any) -> Definition:
    return changed(definition, inputs=tensors(definition.inputs, **{name: fields}))


def shaped(definition: Definition) -> list[str]:
    return [name for name, spec in definition.inputs.items() if spec.shape]


@given(definition=PICKED, name=WORDS, prefix=WORDS, prose=st.text(max_size=10), data=st.data())
def test_a_definition_in_other_words_is_found(
    catalog: Catalog, definition: Definition, name: str, prefix: str, prose: str, data: st.DataObject
) -> None:
    spelt = {axis: f"{prefix}_{axis}" for axis in data.draw(st.permutations(list(definition.axes)))}
    renamed = changed(
        definition,
        name=name,
        description=prose,
        tags=[prefix],
        axes={new: definition.axes[old].model_dump(mode="json") for old, new in spelt.items()},
        **{
            part: {
                key: {**spec.model_dump(mode="json"), "shape": spec.shape and [spelt[axis] for axis in spec.shape]}
                for key, spec in getattr(definition, part).items()
            }
            for part in ("inputs", "outputs")
        },
    )
    assert catalog.match(ops.structure(renamed)) == definition


@given(definition=PICKED, by=st.integers(1, 10**6), data=st.data())
def test_another_constant_is_another_definition(
    catalog: Catalog, definition: Definition, by: int, data: st.DataObject
) -> None:
    used = {axis for name in shaped(definition) for axis in definition.inputs[name].shape or ()}
    axis = data.draw(st.sampled_from(sorted(used & set(definition.const_axes))))
    larger = changed(definition, axes={**definition.axes, axis: AxisConst(value=definition.const_axes[axis] + by)})
    assert catalog.match(ops.structure(larger)) is None


@given(definition=PICKED, dtype=st.sampled_from(DType), data=st.data())
def test_another_dtype_of_any_input_is_another_definition(
    catalog: Catalog, definition: Definition, dtype: DType, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(list(definition.inputs)))
    other = with_input(definition, name, dtype=dtype.value)
    found = catalog.match(ops.structure(other))
    assert found == (definition if definition.inputs[name].dtype is dtype else None)


@given(eps=st.floats(1e-12, 1.0), family=st.sampled_from(["rmsnorm", "fused_add_rmsnorm"]))
def test_another_eps_is_another_definition(catalog: Catalog, eps: float, family: str) -> None:
    stored = next(d for d in DEFINITIONS if d.name == f"{family}_h64")
    found = catalog.match(ops.structure(ops.ALL[family].definition(hidden_size=64, eps=eps)))
    assert found == (stored if eps == 1e-5 else None)


@given(definition=PICKED, data=st.data())
def test_another_rank_is_another_definition(catalog: Catalog, definition: Definition, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(shaped(definition)))
    shape = definition.inputs[name].shape or []
    axis = data.draw(st.sampled_from(list(definition.axes)))
    at = data.draw(st.integers(0, len(shape)))
    more = [*shape[:at], axis, *shape[at:]]
    for other in (more, shape[:-1], None):
        assert catalog.match(ops.structure(with_input(definition, name, shape=other))) is None


@given(definition=PICKED, data=st.data())
def test_a_constant_that_becomes_variable_is_another_definition(
    catalog: Catalog, definition: Definition, data: st.DataObject
) -> None:
    used = {axis for name in shaped(definition) for axis in definition.inputs[name].shape or ()}
    axis = data.draw(st.sampled_from(sorted(used & set(definition.const_axes))))
    assert catalog.match(ops.structure(changed(definition, axes={**definition.axes, axis: AxisVar()}))) is None


@given(definition=PICKED, data=st.data())
def test_inputs_in_another_order_are_another_definition_unless_they_are_alike(
    catalog: Catalog, definition: Definition, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(list(definition.inputs)))
    other = changed(definition, inputs={name: definition.inputs[name] for name in order})
    alike = ops.structure(other) == ops.structure(definition)
    assert (catalog.match(ops.structure(other)) == definition) == alike
    # Of two tensors of one shape and dtype nobody can tell which is which: only then may they change places.
    moved = [(definition.inputs[a], definition.inputs[b]) for a, b in zip(definition.inputs, order, strict=True)]
    assert not alike or all((a.dtype, len(a.shape or ())) == (b.dtype, len(b.shape or ())) for a, b in moved)


@given(op_type=WORDS, definition=PICKED)
def test_another_op_is_another_definition(catalog: Catalog, definition: Definition, op_type: str) -> None:
    assert catalog.match(ops.structure(changed(definition, op_type=op_type))) is None


def test_the_rotation_style_which_shapes_cannot_tell_is_told_apart(catalog: Catalog) -> None:
    other = ops.ALL["rope"].definition(head_dim=16, rotary_dim=8, is_neox=False)
    assert catalog.match(ops.structure(other)) is None


@pytest.mark.parametrize("never", ["", (), None, ("gemm", (), (), None, ""), 7])
def test_what_is_no_structure_of_ours_matches_nothing(catalog: Catalog, never: Any) -> None:
    assert catalog.match(never) is None
