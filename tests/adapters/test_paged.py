"""Caches of any layout are seen as pages of one token without a copy, and page lists are made without the host."""

from __future__ import annotations

import pytest
import torch
from fib_plugin.adapters.live.attention import slots_by_host
from fib_plugin.adapters.live.paged import DeviceStep, device_lists, slots_view

BLOCKS, SIZE, HEADS, DIM = 7, 16, 2, 8


def pool(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


def layouts() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(keys, values) [blocks, size, heads, dim] as engines lay them out."""
    combined = pool(BLOCKS, HEADS, SIZE, 2 * DIM).transpose(1, 2)
    tokens_first = pool(BLOCKS, SIZE, HEADS, 2 * DIM)
    split_heads_first = pool(2, BLOCKS, HEADS, SIZE, DIM).transpose(2, 3)
    one_head = pool(BLOCKS, 1, SIZE, 2 * DIM).transpose(1, 2)
    return {
        "two pools": tuple(pool(2, BLOCKS, SIZE, HEADS, DIM).unbind(0)),
        "two pools, heads first": tuple(split_heads_first.unbind(0)),
        "side by side": tuple(pool(BLOCKS, 2, SIZE, HEADS, DIM).unbind(1)),
        "combined, heads first": tuple(combined.split(DIM, dim=-1)),
        "combined, tokens first": tuple(tokens_first.split(DIM, dim=-1)),
        "one head": tuple(one_head.split(DIM, dim=-1)),
        "one block": tuple(pool(1, HEADS, SIZE, 2 * DIM).transpose(1, 2).split(DIM, dim=-1)),
        "one token a block": tuple(pool(2, BLOCKS, 1, HEADS, DIM).unbind(0)),
    }


@pytest.mark.parametrize("layout", layouts())
def test_every_token_is_found_on_its_page(layout: str) -> None:
    keys, values = layouts()[layout]
    slots = slots_view(keys, values)
    assert slots is not None
    for block in range(keys.shape[0]):
        for token in range(keys.shape[1]):
            page = block * slots.block + token * slots.token
            assert torch.equal(slots.keys[page, 0], keys[block, token])
            assert torch.equal(slots.values[page, 0], values[block, token])


@pytest.mark.parametrize("layout", layouts())
def test_nothing_is_copied_and_no_page_lies_outside(layout: str) -> None:
    keys, values = layouts()[layout]
    slots = slots_view(keys, values)
    assert slots is not None
    assert slots.keys.data_ptr() == keys.data_ptr()
    assert slots.values.data_ptr() == values.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(keys.shape, keys.stride(), strict=True))
    reach = sum((size - 1) * stride for size, stride in zip(slots.keys.shape, slots.keys.stride(), strict=True))
    assert reach == last


def test_keys_and_values_of_different_layouts_have_no_common_list() -> None:
    keys = pool(BLOCKS, SIZE, HEADS, DIM)
    assert slots_view(keys, pool(BLOCKS, HEADS, SIZE, DIM).transpose(1, 2)) is None
    assert slots_view(keys, pool(BLOCKS, SIZE, HEADS, 2 * DIM)) is None


TABLE = torch.tensor([[3, 5, 0], [1, 0, 0], [6, 2, 4], [0, 0, 0]], dtype=torch.int32)
LENGTHS = torch.tensor([17, 16, 33, 0], dtype=torch.int32)


def test_lists_are_those_that_the_host_would_make() -> None:
    indptr, indices = device_lists(TABLE, LENGTHS, int(LENGTHS.sum()), SIZE, SIZE, 1)
    expected = slots_by_host(SIZE, TABLE, LENGTHS)
    assert indptr.tolist() == expected[0].tolist()
    assert indices.tolist() == expected[1].tolist()
    assert indptr.dtype == indices.dtype == torch.int32


def test_lists_with_room_to_spare_name_only_blocks_that_exist() -> None:
    most = TABLE.numel() * SIZE
    indptr, indices = device_lists(TABLE, LENGTHS, most, SIZE, SIZE, 1)
    used = int(indptr[-1])
    assert used == int(LENGTHS.sum())
    assert indices[:used].tolist() == slots_by_host(SIZE, TABLE, LENGTHS)[1].tolist()
    assert indices.shape == (most,)
    assert int(indices.min()) >= 0
    assert int(indices.max()) < BLOCKS * SIZE


def test_a_layout_with_gaps_spreads_the_same_tokens() -> None:
    plain = device_lists(TABLE, LENGTHS, 66, SIZE, SIZE, 1)[1]
    spread = device_lists(TABLE, LENGTHS, 66, SIZE, 5 * SIZE, 3)[1]
    assert spread.tolist() == [(slot // SIZE) * 5 * SIZE + slot % SIZE * 3 for slot in plain.tolist()]


def step() -> DeviceStep:
    return DeviceStep(None, TABLE, LENGTHS, LENGTHS, SIZE)


def test_lists_are_made_once_a_step_and_layout() -> None:
    made = step()
    assert made.lists_for(SIZE, 1) is made.lists_for(SIZE, 1)
    assert made.lists_for(SIZE, 1) is not made.lists_for(2 * SIZE, 1)


def test_a_graph_has_lists_of_its_own_with_room_for_the_whole_table() -> None:
    made, graph, other = step(), object(), object()
    before = made.lists_for(SIZE, 1)
    inside = made.lists_for(SIZE, 1, graph)
    assert inside is made.lists_for(SIZE, 1, graph)
    assert inside is not before
    assert inside is not made.lists_for(SIZE, 1, other)
    assert inside[1].shape == (made.most,)
    assert before[1].shape == (66,)


def test_lists_of_a_graph_follow_the_buffers_that_it_is_replayed_with() -> None:
    """What a replay does: the same operations on the same buffers, which by then hold another step."""
    table, lengths = TABLE.clone(), torch.zeros(4, dtype=torch.int32)
    at_capture = DeviceStep(None, table, lengths, lengths, SIZE)
    lengths.copy_(LENGTHS)
    indptr, indices = at_capture.lists_for(SIZE, 1, object())
    assert indices[: int(indptr[-1])].tolist() == slots_by_host(SIZE, TABLE, LENGTHS)[1].tolist()
