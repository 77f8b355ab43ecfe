"""Live rotary embeddings, experts, attention and sampling: what goes out has the shape of what came in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import proven
import pytest
import torch
import torch.nn.functional as F
from fib_plugin.adapters.live.attention import LiveAttention, Step, slots_by_host, slots_of, table_step
from fib_plugin.adapters.live.moe import LiveMoe
from fib_plugin.adapters.live.rope import LiveRope
from fib_plugin.adapters.live.sampling import LiveSampling
from hypothesis import given, settings
from hypothesis import strategies as st
from live_calls import FP32, ROWS, Make, normal, reasons
from proven import MARK
from safetensors.torch import load_file

from fib_plugin import ops
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import Definition

# ---- rope --------------------------------------------------------------------------------------------------------


def rope(is_neox: bool = True) -> Definition:
    return ops.ALL["rope"].definition(head_dim=8, rotary_dim=8, is_neox=is_neox, **FP32)


def cache(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    angles = torch.arange(32)[:, None] * torch.tensor([1.0, 0.5, 0.25, 0.125])
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype)


def rotated(x: torch.Tensor, positions: torch.Tensor, is_neox: bool) -> torch.Tensor:
    cos, sin = cache()[positions.reshape(-1)].chunk(2, dim=-1)
    pairs = x.reshape(ROWS, -1, 2, 4).transpose(2, 3) if is_neox else x.reshape(ROWS, -1, 4, 2)
    turned = torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin)[:, None]
    pairs = torch.view_as_real(turned)
    return (pairs.transpose(2, 3) if is_neox else pairs).reshape(x.shape)


def packed(*tail: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys as views of one packed projection, the way models hold them."""
    q, k, _ = normal(ROWS, (4 + 2 + 2) * 8).split([32, 16, 16], dim=-1)
    return q, k


@pytest.mark.parametrize("is_neox", [True, False], ids=["neox", "gptj"])
@pytest.mark.parametrize("layout", ["flat", "heads", "packed", "batched positions"])
def test_rope_gives_queries_and_keys_back_in_their_shapes(proven_runtime: Any, is_neox: bool, layout: str) -> None:
    q, k = (normal(ROWS, 32), normal(ROWS, 16)) if layout != "packed" else packed()
    if layout == "heads":
        q, k = q.view(ROWS, 4, 8), k.view(ROWS, 2, 8)
    positions = torch.tensor([0, 1, 2, 7, 30, 5])
    if layout == "batched positions":
        positions, q, k = positions.view(2, 3), q.view(2, 3, 32), k.view(2, 3, 16)
    live = LiveRope(proven_runtime(rope(is_neox)), "toy.rope")
    q_out, k_out = live.attempt(positions, q, k, cache(), 8, is_neox)  # type: ignore[misc]
    torch.testing.assert_close(q_out, rotated(q, positions, is_neox) + MARK)
    torch.testing.assert_close(k_out, rotated(k, positions, is_neox))


def test_rope_widens_a_narrow_cache_once(proven_runtime: Any) -> None:
    runtime = proven_runtime(rope())
    live, narrow = LiveRope(runtime, "toy.rope"), cache(torch.bfloat16)
    seen: list[torch.Tensor] = []
    site = runtime.site("toy.rope", rope())
    run = site.attempt(ROWS, (normal(ROWS, 4, 8), normal(ROWS, 2, 8), cache(), torch.arange(ROWS)))
    assert run is not None
    entry = site.entries[ROWS]
    inner = entry.run
    entry.run = lambda *inputs: seen.append(inputs[2]) or inner(*inputs)
    for _ in range(2):
        live.attempt(torch.arange(ROWS), normal(ROWS, 32), normal(ROWS, 16), narrow, 8, True)
    assert seen[0].dtype == torch.float32
    assert seen[0] is seen[1]


def test_the_two_styles_of_one_cache_are_two_ops(proven_runtime: Any) -> None:
    live, shared = LiveRope(proven_runtime(rope(True)), "toy.rope"), cache()
    args = torch.arange(ROWS), normal(ROWS, 32), normal(ROWS, 16), shared, 8
    assert live.attempt(*args, True) is not None
    assert live.attempt(*args, False) is None


# ---- experts -----------------------------------------------------------------------------------------------------

MOE = ops.ALL["moe"].definition(topk=2, num_experts=3, hidden_size=4, intermediate_size=5, **FP32)


def experts() -> tuple[torch.Tensor, ...]:
    ids = torch.tensor([[0, 1], [2, 0], [1, 2], [0, 2], [1, 0], [2, 1]])
    return normal(ROWS, 4), normal(3, 10, 4), normal(3, 4, 5), normal(ROWS, 2).softmax(-1), ids


def mixed(x: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> Any:
    rows = []
    for token, (row, chosen) in enumerate(zip(x, ids, strict=True)):
        gated = [F.silu((w13[e] @ row)[:5]) * (w13[e] @ row)[5:] for e in chosen]
        rows.append(sum(weights[token, at] * (w2[e] @ gated[at]) for at, e in enumerate(chosen)))
    return torch.stack(rows)


@pytest.mark.parametrize("ids_dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.bfloat16])
def test_moe_gets_routing_in_the_dtypes_of_the_definition(
    proven_runtime: Any, ids_dtype: torch.dtype, weights_dtype: torch.dtype
) -> None:
    runtime = proven_runtime(MOE)
    x, w13, w2, weights, ids = experts()
    seen: list[Any] = []
    live = LiveMoe(runtime, "toy.moe")
    out = live.attempt(x, w13, w2, weights.to(weights_dtype), ids.to(ids_dtype))
    torch.testing.assert_close(out, mixed(x, w13, w2, weights.to(weights_dtype).float(), ids) + MARK)
    entry = runtime.sites[0].entries[ROWS]
    inner = entry.run
    entry.run = lambda *inputs: seen.extend(inputs) or inner(*inputs)
    live.attempt(x, w13, w2, weights.to(weights_dtype), ids.to(ids_dtype))
    assert (seen[3].dtype, seen[4].dtype) == (torch.float32, torch.int32)


def test_stand_ins_of_experts_are_observed_and_never_substituted(proven_runtime: Any) -> None:
    runtime = proven_runtime(MOE, tracing=True)
    x, w13, w2, weights, ids = experts()
    live = LiveMoe(runtime, "toy.moe")
    assert live.attempt(x, torch.empty(1).expand(w13.shape), torch.empty(1).expand(w2.shape), weights, ids) is None
    assert runtime.snapshot()["calls"][MOE.name] == {'{"num_tokens":6}': 1}
    assert live.attempt(x, w13, w2, weights, ids) is not None


def test_moe_wins_only_for_what_is_proven(proven_runtime: Any) -> None:
    live = LiveMoe(proven_runtime(MOE), "toy.moe")
    assert live.wins(2, normal(3, 10, 4))
    assert not live.wins(1, normal(3, 10, 4))
    assert not live.wins(2, normal(3, 10, 4, dtype=torch.bfloat16))


# ---- attention ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 13), max_size=5),
    block_size=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 99),
)
def test_slots_are_those_of_a_loop_over_requests_and_tokens(lengths: list[int], block_size: int, seed: int) -> None:
    blocks = -(-max([*lengths, 1]) // block_size)
    order = torch.randperm(max(len(lengths), 1) * blocks, generator=torch.Generator().manual_seed(seed))
    table = order.view(-1, blocks)[: len(lengths)].to(torch.int32)
    indptr, indices = slots_of(table, torch.tensor(lengths, dtype=torch.int32), block_size)
    wanted, ends = [], [0]
    for request, length in enumerate(lengths):
        for token in range(length):
            wanted.append(int(table[request, token // block_size]) * block_size + token % block_size)
        ends.append(len(wanted))
    assert indptr.tolist() == ends
    assert indices.tolist() == wanted
    assert (indptr.dtype, indices.dtype) == (torch.int32, torch.int32)
    by_host = slots_by_host(block_size, table, torch.tensor(lengths, dtype=torch.int32))
    assert [each.tolist() for each in by_host] == [ends, wanted]
    assert [str(each.dtype) for each in by_host] == ["int32", "int32"]


@pytest.mark.parametrize("decode", [True, False], ids=["decode", "prefill"])
def test_page_lists_are_written_down_as_they_were_though_they_are_made_after_the_call(
    make_runtime: Make, dataset: Path, monkeypatch: pytest.MonkeyPatch, decode: bool
) -> None:
    runtime = make_runtime(apply=False, tracing=True)
    live = LiveAttention(runtime, "toy.attention")
    table = torch.tensor([[3, 1, 9], [5, 0, 9]], dtype=torch.int32)
    lengths = torch.tensor([2, 5], dtype=torch.int32)
    wanted = slots_of(table, lengths, 4)
    q, pool = normal(2, 4, 8), normal(40, 1, 2, 8)
    indptr = None if decode else torch.tensor([0, 1, 2], dtype=torch.int32)
    step = table_step(indptr, table, lengths, 4)
    with monkeypatch.context() as patch:
        patch.setattr("fib_plugin.adapters.live.attention.slots_of", None)  # too dear for the engine's thread
        assert live.site(step, q, 2).attempt_made((2, 1), live.shown, step, q, pool, pool, 0.3) is None
    table.fill_(77), lengths.fill_(1)
    assert runtime.writer.flush()
    (line,) = [trace for traces in TraceSet.from_path(dataset).workloads.values() for trace in traces]
    sources = line.workload.inputs
    stored = load_file(dataset / sources["kv_indices"].path)
    assert torch.equal(stored["kv_indptr"], wanted[0])
    assert torch.equal(stored["kv_indices"], wanted[1])
    assert set(stored) == {"kv_indptr", "kv_indices"} | (set() if decode else {"qo_indptr"})
    assert line.workload.axes["num_kv_indices"] == 7


def test_slots_read_no_entry_of_the_block_table_beyond_a_requests_length() -> None:
    table = torch.tensor([[3, -1, -1], [5, 0, -1]], dtype=torch.int32)
    _, indices = slots_of(table, torch.tensor([2, 5], dtype=torch.int32), 4)
    assert indices.tolist() == [12, 13, 20, 21, 22, 23, 0]


@pytest.mark.parametrize("decode", [True, False], ids=["decode", "prefill"])
def test_attention_asks_one_site_per_kind_and_passes_the_definitions_inputs(proven_runtime: Any, decode: bool) -> None:
    family = ops.ALL["gqa_paged_decode" if decode else "gqa_paged_prefill"]
    definition = family.definition(num_qo_heads=4, num_kv_heads=2, head_dim=8, **FP32)
    live = LiveAttention(proven_runtime(definition), "toy.attention")
    table, lengths = torch.tensor([[1], [0]], dtype=torch.int32), torch.tensor([3, 4], dtype=torch.int32)
    indptr, indices = slots_of(table, lengths, 4)
    step = Step(None if decode else torch.tensor([0, 1, 2], dtype=torch.int32), 2, lambda: (indptr, indices))
    q, pool = normal(2, 4, 8), normal(8, 1, 2, 8)
    site = live.site(step, q, 2)
    inputs = live.inputs(step, q, pool, pool, 0.3)
    assert site is live.site(step, q, 2)
    assert site.definition.name == definition.name
    axes = site.definition.axis_values([getattr(value, "shape", None) for value in inputs])
    assert (axes["num_kv_indices"], axes["num_pages"], axes["len_indptr"]) == (7, 8, 3)


# ---- sampling ----------------------------------------------------------------------------------------------------

K, P = torch.full((ROWS,), 2), torch.full((ROWS,), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("family", "k", "p"),
    [("top_k_sampling", K, None), ("top_p_sampling", None, P), ("top_k_top_p_sampling", K, P)],
)
def test_sampling_passes_probabilities_and_the_filters_that_are_set(
    make_runtime: Make, dataset: Path, family: str, k: torch.Tensor | None, p: torch.Tensor | None
) -> None:
    definition = ops.ALL[family].definition(vocab_size=9)
    check = (
        "\n\ndef run(probs, *filters):\n"
        "    assert torch.allclose(probs.sum(-1), torch.ones(len(probs)))\n"
        "    kinds = [str(f.dtype) for f in filters]\n"
        "    return torch.full((len(probs),), 7 if 'torch.float64' not in kinds else 8)\n"
    )
    proven.prove(dataset, definition, proven.solution(definition, after=check), sizes=(ROWS,))
    tokens = LiveSampling(make_runtime(), "toy.sampling").from_logits(normal(ROWS, 9, dtype=torch.bfloat16), k, p)
    assert tokens is not None
    assert tokens.tolist() == [7] * ROWS


def test_probabilities_are_not_made_when_nothing_runs_on_them(make_runtime: Make, monkeypatch: Any) -> None:
    runtime = make_runtime()
    live, logits = LiveSampling(runtime, "toy.sampling"), normal(ROWS, 9)
    assert live.from_logits(logits, K, None) is None

    def refuse(*args: Any) -> Any:
        raise AssertionError("softmax of a call that nobody needs")

    monkeypatch.setattr("fib_plugin.adapters.live.sampling._inputs", refuse)
    assert live.from_logits(logits, K, None) is None
    assert reasons(runtime) == {"no_definition": 2}
