"""HostPool: copies are private and equal, and their memory is used again only when nobody can read it."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from fib_plugin.capture.host_pool import LIMIT, SMALLEST, HostPool

LARGE = SMALLEST // 4  # int32 elements that come from kept memory


def numbers(count: int = LARGE) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32)


@pytest.fixture
def pool() -> HostPool:
    return HostPool()


def address(pool: HostPool) -> int:
    return pool.copy(numbers()).data_ptr()


@pytest.mark.parametrize("count", [1, 40, LARGE, LARGE + 3])
@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.bool, torch.float8_e4m3fn, torch.uint8]
)
def test_a_copy_equals_its_source_and_does_not_follow_it(pool: HostPool, count: int, dtype: torch.dtype) -> None:
    source = (torch.arange(count) % 7).to(dtype)
    copy, before = pool.copy(source), source.clone()
    source.zero_()
    assert (copy.dtype, copy.shape) == (before.dtype, before.shape)
    assert torch.equal(copy.float(), before.float())


@pytest.mark.parametrize(
    "source",
    [
        numbers(64 * 512).view(64, 512)[:, :400],
        numbers(64 * 512).view(64, 512).t(),
        torch.zeros(1, dtype=torch.int32).expand(LARGE),
        torch.arange(64 * 512).view(64, 512).to(torch.bfloat16)[:, ::2],
        torch.tensor(3),
        torch.empty(0, 4),
        torch.rand(LARGE, requires_grad=True),
        torch.rand(4, dtype=torch.complex64),
    ],
    ids=["rows", "turned", "expanded", "bfloat16 rows", "number", "empty", "trained", "complex"],
)
def test_tensors_of_all_kinds_are_copied(pool: HostPool, source: torch.Tensor) -> None:
    copy = pool.copy(source)
    assert torch.equal(copy, source.detach())
    assert copy.is_contiguous()
    assert not copy.requires_grad
    assert copy.data_ptr() != source.data_ptr() or not source.numel()


def test_memory_is_used_again_when_the_copy_is_gone(pool: HostPool) -> None:
    first = address(pool)
    gc.collect()
    assert address(pool) == first


@pytest.mark.parametrize(
    "reader",
    [lambda copy: copy[3:], lambda copy: copy.numpy(), lambda copy: memoryview(copy.numpy()), lambda copy: [copy]],
    ids=["slice", "array", "memoryview", "list"],
)
def test_memory_is_not_used_again_while_anything_reads_it(pool: HostPool, reader: Any) -> None:
    copy = pool.copy(numbers())
    used = copy.data_ptr()
    held = reader(copy)
    del copy
    gc.collect()
    assert address(pool) != used
    del held
    gc.collect()
    assert address(pool) == used


def test_memory_that_is_kept_has_a_limit() -> None:
    pool = HostPool(limit=3 * SMALLEST)
    copies = [pool.copy(numbers()) for _ in range(8)]
    assert len(pool._lent) == 3
    assert all(torch.equal(copy, numbers()) for copy in copies)
    assert LIMIT <= 64 << 20


def test_a_size_that_a_copy_had_to_wait_for_is_at_hand_from_the_next_beat_on(pool: HostPool) -> None:
    first = pool.copy(numbers())
    assert not pool._free[SMALLEST]
    pool.prepare()
    ready = len(pool._free[SMALLEST])
    assert ready > 1
    second = pool.copy(numbers())
    assert len(pool._free[SMALLEST]) == ready - 1
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_memory_is_made_ready_for_sizes_that_were_asked_for_up_to_the_limit() -> None:
    pool = HostPool(limit=3 * SMALLEST)
    pool.prepare()
    assert not pool._free
    copies = [pool.copy(numbers()) for _ in range(2)]
    pool.prepare()
    pool.prepare()
    assert len(copies) + len(pool._free[SMALLEST]) == 3


def test_an_array_of_numpy_is_copied_too(pool: HostPool) -> None:
    table = torch.arange(12, dtype=torch.int32).view(3, 4)
    copy = pool.copy(table.numpy()[:2, :3])
    table.zero_()
    assert copy.tolist() == [[0, 1, 2], [4, 5, 6]]
    assert copy.flags.c_contiguous
