"""Traffic of a call: what must move, and never more than that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench.bench_cases import ADD_NORM, HIDDEN, NORM, SAMPLER

from fib_plugin import ops
from fib_plugin.bench.traffic import traffic
from fib_plugin.schema import Definition

GEMM = ops.ALL["gemm"].definition(n=32, k=16)
DECODE = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=8, page_size=2)
PREFILL = ops.ALL["gqa_paged_prefill"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)
MOE = ops.ALL["moe"].definition(topk=2, num_experts=8, hidden_size=16, intermediate_size=32)
ROPE = ops.ALL["rope"].definition(head_dim=8, rotary_dim=2, is_neox=True)


def test_inputs_are_read_once_and_outputs_written_once() -> None:
    moved = traffic(NORM, {"batch_size": 10})
    assert (moved.read, moved.written) == (4 * (10 * HIDDEN + HIDDEN), 4 * 10 * HIDDEN)
    assert moved.total == moved.read + moved.written
    assert moved.flops is None


def test_an_op_that_writes_in_place_reads_and_writes() -> None:
    moved = traffic(ADD_NORM, {"batch_size": 10}, mutates=("hidden_states", "residual"))
    assert (moved.read, moved.written) == (4 * (2 * 10 * HIDDEN + HIDDEN), 4 * 2 * 10 * HIDDEN)


def test_a_gemm_has_a_number_of_operations() -> None:
    moved = traffic(GEMM, {"M": 3})
    assert moved.read == 2 * (3 * 16 + 32 * 16)
    assert moved.written == 2 * 3 * 32
    assert moved.flops == 2 * 3 * 32 * 16


def _decode(indptr: list[int], indices: list[int]) -> tuple[dict[str, int], list[Any]]:
    axes = {
        "batch_size": len(indptr) - 1,
        "num_pages": 1000,
        "len_indptr": len(indptr),
        "num_kv_indices": len(indices),
    }
    cache = torch.zeros(1, 1, 1, 1).expand(1000, 2, 2, 8)
    integers = [torch.tensor(x, dtype=torch.int32) for x in (indptr, indices)]
    return axes, [torch.zeros(len(indptr) - 1, 4, 8), cache, cache, *integers, 0.3]


def test_only_pages_that_the_call_names_are_read_and_shared_ones_once() -> None:
    axes, inputs = _decode([0, 2, 4], [7, 9, 7, 11, 500])  # the last index belongs to no request
    page = 2 * 2 * 8 * 2
    moved = traffic(DECODE, axes, inputs)
    q = 2 * 4 * 8 * 2
    assert moved.read == q + 2 * 3 * page + 4 * 3 + 4 * 5
    assert moved.written == q + 4 * 2 * 4
    assert moved.flops == 4 * 4 * 8 * (4 * 2)


def test_without_its_indices_a_table_counts_as_one_row() -> None:
    axes, inputs = _decode([0, 2, 4], [7, 9, 7, 11])
    assert traffic(DECODE, axes).read == traffic(DECODE, axes, inputs).read - 2 * 2 * (2 * 2 * 8 * 2)


def test_a_causal_prefill_does_not_score_what_it_masks_and_skips_requests_without_queries() -> None:
    axes = {"total_q": 3, "num_pages": 9, "len_indptr": 3, "num_kv_indices": 9}
    cache = torch.zeros(9, 1, 2, 8)
    inputs = [torch.zeros(3, 4, 8), cache, cache]
    inputs += [torch.tensor(x) for x in ([0, 3, 3], [0, 5, 9], list(range(9)))]
    moved = traffic(PREFILL, axes, [*inputs, 0.3])
    assert moved.flops == 4 * 4 * 8 * (3 + 4 + 5)
    assert moved.read == 3 * 4 * 8 * 2 + 2 * 5 * (2 * 8 * 2) + 4 * (3 + 3 + 9)


def test_only_experts_that_a_token_is_sent_to_are_read() -> None:
    weights = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    ids = torch.tensor([[1, 3], [3, 6]], dtype=torch.int32)  # expert 6 has no weight
    inputs = [torch.zeros(2, 16), torch.zeros(8, 64, 16), torch.zeros(8, 16, 32), weights, ids]
    moved = traffic(MOE, {"num_tokens": 2}, inputs)
    assert moved.read == 2 * 2 * 16 + 2 * (2 * (64 * 16 + 16 * 32)) + 2 * 4 * 4
    assert moved.flops == 6 * 3 * 16 * 32


def test_what_is_not_rotated_need_not_move_when_rope_works_in_place() -> None:
    axes = {"num_tokens": 4, "num_qo_heads": 4, "num_kv_heads": 2, "max_seq_len": 4096}
    inputs = [torch.zeros(4, 4, 8), torch.zeros(4, 2, 8), torch.zeros(4096, 2), torch.tensor([5, 6, 5, 6])]
    heads, rows = 2 * 4 * 6 * 8, 2 * 2 * 4
    out_of_place = traffic(ROPE, axes, inputs)
    in_place = traffic(ROPE, axes, inputs, mutates=("q", "k"))
    assert (out_of_place.read, out_of_place.written) == (heads + rows + 4 * 8, heads)
    assert (in_place.read, in_place.written) == (heads // 4 + rows + 4 * 8, heads // 4)


def test_an_integer_input_that_nobody_knows_may_pick_what_is_read_so_nothing_else_counts() -> None:
    fields = NORM.model_dump()
    fields["axes"]["picked"] = {"type": "var"}
    fields["inputs"]["rows"] = {"shape": ["picked"], "dtype": "int32"}
    moved = traffic(Definition.model_validate(fields), {"batch_size": 10, "picked": 2})
    assert (moved.read, moved.written) == (4 * 2, 4 * 10 * HIDDEN)


def test_parameters_of_a_sampler_do_not_hide_its_probabilities() -> None:
    assert traffic(SAMPLER, {"batch_size": 3}).read == 4 * 3 * 256 + 2 * 4 * 3


@pytest.mark.parametrize("family", sorted(ops.ALL))
def test_every_family_moves_at_least_its_outputs(family: str) -> None:
    sizes = {
        "n": 64, "k": 32, "d": 16, "hidden_size": 64, "eps": 1e-5, "head_dim": 8, "rotary_dim": 8, "is_neox": True,
        "num_qo_heads": 4, "num_kv_heads": 2, "topk": 2, "num_experts": 4, "intermediate_size": 16, "vocab_size": 99,
    }  # fmt: skip
    make = ops.ALL[family].make
    wanted = make.__code__.co_varnames[: make.__code__.co_argcount]
    definition = ops.ALL[family].definition(**{name: value for name, value in sizes.items() if name in wanted})
    moved = traffic(definition, dict.fromkeys(definition.var_axes, 4))
    assert moved.read > 0
    assert moved.written > 0


def test_an_axis_without_a_value_is_named() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        traffic(NORM, {})
