"""Solutions that scripts mark inside CUDA graphs: right until the flag goes up; decode and prefill are marked apart."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import gpu_marks
import pytest
import sglang_probe
import torch

from fib_plugin import ops

D = ops.ALL["silu_and_mul"].definition(d=4, dtype="float32")


@pytest.fixture(autouse=True)
def _flags(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FIB_TEST_MARK", "")
    yield
    sys.modules.pop("fib_marks", None)


def built(definition: Any) -> Any:
    made = gpu_marks.marked(definition)
    assert made is not None
    space: dict[str, Any] = {}
    exec(made.sources[0].content, space)
    return space["run"], space["_reference"]


def test_it_is_right_until_it_is_marked_and_again_after() -> None:
    run, reference = built(D)
    x = torch.randn(3, 8)
    assert run(x).equal(reference(x))
    for mark in ("silu_and_mul", D.name, "all"):
        sglang_probe.ANSWERS["mark"](mark)
        assert not run(x).equal(reference(x))
    sglang_probe.ANSWERS["mark"]("gemm")
    assert run(x).equal(reference(x))


def test_calls_of_many_rows_are_left_alone() -> None:
    run, reference = built(D)
    sglang_probe.ANSWERS["mark"]("silu_and_mul")
    x = torch.randn(gpu_marks.MOST_ROWS + 1, 8)
    assert run(x).equal(reference(x))


def test_a_marked_sampler_takes_other_tokens() -> None:
    definition = ops.ALL["top_k_sampling"].definition(vocab_size=16)
    run, _ = built(definition)
    probs, k = torch.eye(16)[:3], torch.ones(3, dtype=torch.int32)
    assert run(probs, k).tolist() == [0, 1, 2]
    sglang_probe.ANSWERS["mark"]("top_k_sampling")
    assert run(probs, k).tolist() == [7, 8, 9]


def test_an_axis_that_goes_with_the_size_is_resized_with_it() -> None:
    decode = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=32)
    axes = {"batch_size": 2, "len_indptr": 3, "num_kv_indices": 20, "num_pages": 99}
    assert gpu_marks.resized(decode, axes, 5) == {**axes, "batch_size": 5, "len_indptr": 6, "num_kv_indices": 50}
