"""Blobs are safetensors files that the library reads back bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fib_plugin.capture.blob import NotATensor, encode, host_tensor
from fib_plugin.capture.files import write_temporary

TORCH_DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def stored(path: Path, **tensors: object) -> dict[str, torch.Tensor]:
    write_temporary(path, encode({name: host_tensor(name, value) for name, value in tensors.items()}))
    return load_file(path)


@given(st.lists(st.tuples(st.sampled_from(TORCH_DTYPES), st.lists(st.integers(0, 4), max_size=3)), max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_library_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, specs: list[tuple[torch.dtype, list[int]]]
) -> None:
    tensors = {f"t{i}": torch.randint(0, 2, shape).to(dtype) for i, (dtype, shape) in enumerate(specs)}
    loaded = stored(tmp_path_factory.mktemp("blob") / "b.safetensors", **tensors)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_a_strided_view_is_stored_as_what_it_shows(tmp_path: Path) -> None:
    table = torch.arange(12).reshape(3, 4)
    assert torch.equal(stored(tmp_path / "b", view=table.t()[1:])["view"], table.t()[1:])


def test_a_tensor_that_requires_grad_is_stored(tmp_path: Path) -> None:
    assert torch.equal(stored(tmp_path / "b", w=torch.ones(2, requires_grad=True))["w"], torch.ones(2))


def test_numpy_arrays_are_stored_like_tensors(tmp_path: Path) -> None:
    array = numpy.arange(6, dtype=numpy.int32).reshape(2, 3)[:, ::2]
    assert torch.equal(stored(tmp_path / "b", a=array)["a"], torch.tensor(array.copy()))


def test_every_tensor_starts_aligned_to_its_elements(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(3, dtype=torch.float64)}
    head, *data = encode({name: host_tensor(name, value) for name, value in tensors.items()})
    assert len(head) % 8 == 0
    assert [buffer.nbytes for buffer in data if isinstance(buffer, memoryview)] == [24, 3]


@pytest.mark.parametrize("value", ["text", None, torch.ones(2, dtype=torch.complex64), numpy.array(["a"])])
def test_what_safetensors_cannot_hold_is_refused_by_name(value: object) -> None:
    with pytest.raises(NotATensor, match="'x'"):
        host_tensor("x", value)
