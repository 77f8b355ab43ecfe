"""Two answers are the same when every bit of them is."""

from __future__ import annotations

import torch

from fib_plugin.judge import identical

ONE = torch.tensor([[1.0, float("nan")], [0.0, -3.0]])


def test_equal_answers_are_the_same_whatever_their_strides() -> None:
    assert identical([ONE], [ONE.clone()])
    assert identical([ONE.T], [ONE.T.contiguous()])
    assert identical([], [])


def test_the_last_bit_counts() -> None:
    assert not identical([ONE], [ONE.nextafter(torch.full_like(ONE, 9.0))])
    assert not identical([torch.tensor([0.0])], [torch.tensor([-0.0])])


def test_other_forms_are_not_the_same() -> None:
    assert not identical([ONE], [ONE.reshape(-1)])
    assert not identical([ONE], [ONE.view(torch.int32)])
    assert not identical([ONE], [ONE, ONE])


def test_types_of_eight_bits_are_compared_too() -> None:
    eight = ONE.nan_to_num().to(torch.float8_e4m3fn)
    assert identical([eight], [eight.clone()])
