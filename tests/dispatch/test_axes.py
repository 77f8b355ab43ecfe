"""The written-out reader agrees with Definition.axis_values, on what fits and on what does not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st

from fib_plugin import ops
from fib_plugin.dispatch.axes import reader
from fib_plugin.schema import Definition

DEFINITIONS = [
    ops.ALL["gemm"].definition(n=8, k=4),
    ops.ALL["rmsnorm"].definition(hidden_size=8, eps=1e-5),
    ops.ALL["gqa_paged_decode"].definition(num_qo_heads=2, num_kv_heads=1, head_dim=4),
    ops.ALL["top_k_sampling"].definition(vocab_size=16),
]


def inputs_of(definition: Definition, sizes: dict[str, int]) -> list[object]:
    found: list[object] = []
    for spec in definition.inputs.values():
        if spec.shape is None:
            found.append(1.0)
        else:
            found.append(torch.empty([definition.const_axes.get(axis, sizes.get(axis)) for axis in spec.shape]))
    return found


@given(st.sampled_from(DEFINITIONS), st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_shapes_that_fit_give_the_same_axes(definition: Definition, numbers: list[int]) -> None:
    sizes = dict(zip(definition.var_axes, numbers, strict=False))
    inputs = inputs_of(definition, sizes)
    assert reader(definition)(*inputs) == {axis: sizes[axis] for axis in definition.var_axes}


@given(st.sampled_from(DEFINITIONS), st.data())
def test_shapes_that_do_not_fit_raise_the_same_error(definition: Definition, data: st.DataObject) -> None:
    inputs = inputs_of(definition, dict.fromkeys(definition.var_axes, 3))
    tensors = [index for index, value in enumerate(inputs) if isinstance(value, torch.Tensor)]
    spoilt = data.draw(st.sampled_from(tensors))
    shape = list(inputs[spoilt].shape)
    inputs[spoilt] = data.draw(st.sampled_from([None, torch.empty([*shape, 1]), torch.empty([7, *shape[1:]])]))
    shapes = [getattr(value, "shape", None) for value in inputs]
    assert outcome(lambda: reader(definition)(*inputs)) == outcome(lambda: definition.axis_values(shapes))


def outcome(read: Callable[[], dict[str, int]]) -> dict[str, int] | str:
    """The axes, or the text of the error."""
    try:
        return read()
    except ValueError as error:
        return str(error)
