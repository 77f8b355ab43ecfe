"""What timed calls run on: no row is twice the same, and nothing shows which part of it is new."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fib_plugin.bench.sets import TimingSets


def touched(value: torch.Tensor, times: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """What a child saw before and after the parent touched its set."""
    sets = TimingSets("sets", [[value]], [])
    shared = sets.blob.arguments(sets.layouts[0].inputs)[0]
    before, draw = shared.clone(), np.random.default_rng(1)
    for _ in range(times):
        sets.touch([0], draw)
    assert sets.written(0) == []
    return before, shared.clone()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_every_row_becomes_another_one(dtype: torch.dtype) -> None:
    before, after = touched(torch.randn(40, 64).to(dtype))
    known = {row.numpy().tobytes() for row in before.view(torch.uint8)}
    again = sum(row.numpy().tobytes() in known for row in after.view(torch.uint8))
    assert again <= 8  # two equal elements may have changed places, in the smaller types


def test_the_first_elements_of_a_row_do_not_tell_that_it_changed() -> None:
    before, after = touched(torch.randn(40, 64))
    unmoved = before[:, :4].eq(after[:, :4]).all(dim=1)
    changed = before.ne(after).any(dim=1)
    assert int((unmoved & changed).sum()) > 20


def test_the_numbers_are_as_likely_as_before() -> None:
    before, after = touched(torch.randn(600, 64), times=20)
    assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)


def test_of_very_many_rows_some_change() -> None:
    before, after = touched(torch.randn(20_000, 4))
    assert 200 < int(before.ne(after).any(dim=1).sum()) < 2_000
