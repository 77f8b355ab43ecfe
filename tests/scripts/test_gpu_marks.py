"""Solutions that gpu_sglang.py marks: decode apart from prefill, by a flag that the probe raises in the scheduler."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import gpu_marks
import pytest
import sglang_probe
import torch
import watermarks

from fib_plugin import ops

D = ops.ALL["silu_and_mul"].definition(d=4, dtype="float32")


@pytest.fixture(autouse=True)
def _flags(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FIB_TEST_MARK", "")
    monkeypatch.setenv("FIB_PROBE_MARKS", "cpu")
    sys.modules.pop(watermarks.MODULE, None)
    sglang_probe.register()
    yield
    sys.modules.pop(watermarks.MODULE, None)


def run(definition: Any) -> Any:
    made = gpu_marks.marked(definition)
    assert made is not None
    space: dict[str, Any] = {}
    exec(made.sources[0].content, space)
    return space["run"]


def test_it_is_right_until_its_flag_is_raised_and_again_after() -> None:
    silu, x = run(D), torch.randn(3, 8)
    right = silu(x)
    for mark in ("silu_and_mul", "all"):
        sglang_probe.ANSWERS["mark"](mark)
        assert not silu(x).equal(right)
    sglang_probe.ANSWERS["mark"]("gemm")
    assert silu(x).equal(right)


def test_calls_of_many_rows_are_left_alone() -> None:
    silu, x = run(D), torch.randn(gpu_marks.MOST_ROWS + 1, 8)
    right = silu(x)
    sglang_probe.ANSWERS["mark"]("silu_and_mul")
    assert silu(x).equal(right)


def test_prefill_attention_is_marked_whatever_its_size() -> None:
    prefill = ops.ALL["gqa_paged_prefill"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=32)
    assert gpu_marks.marked(prefill) == watermarks.solution(prefill)


def test_an_axis_that_goes_with_the_size_is_resized_with_it() -> None:
    decode = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=32)
    axes = {"batch_size": 2, "len_indptr": 3, "num_kv_indices": 20, "num_pages": 99}
    assert gpu_marks.resized(decode, axes, 5) == {**axes, "batch_size": 5, "len_indptr": 6, "num_kv_indices": 50}
