"""FlashInfer's functions and wrappers on stand-ins of the library: values, in-place ops, declines, once only.

The stand-ins have the attributes that the adapters read; tests/contracts holds the signatures against real versions.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.flashinfer.activation import Activation
from fib_plugin.adapters.flashinfer.attention import PagedDecode, PagedPrefill, RaggedPrefill
from fib_plugin.adapters.flashinfer.gemm import Gemm
from fib_plugin.adapters.flashinfer.norm import Norm
from fib_plugin.adapters.flashinfer.rope import Rope
from fib_plugin.adapters.flashinfer.sampling import Sampling
from proven import MARK

from fib_plugin import ops
from fib_plugin.schema import Definition

ROWS, HEADS, KV, DIM, PAGE = 6, 4, 2, 8, 16
FP32 = {"dtype": "float32"}
LENGTHS, QUERIES = (17, 5, 33), (3, 1, 20)
GQA = {"num_qo_heads": HEADS, "num_kv_heads": KV, "head_dim": DIM, **FP32}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def starts(sizes: Any) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()], dtype=torch.int32)


def reference(definition: Definition, *inputs: Any) -> Any:
    scope: dict[str, Any] = {}
    exec(definition.reference, scope)
    return scope["run"](*inputs)


def fallbacks(runtime: Any) -> dict[str, int]:
    lines = runtime.snapshot()["status"]["ops"].values()
    return {reason: count for line in lines for reason, count in line["fallbacks"].items()}


def untouched(*args: Any, **kwargs: Any) -> Any:
    return "the library"


# ---- functions ------------------------------------------------------------------------------------------------------


def test_rmsnorm_answers_and_writes_to_out(make_runtime: Any, dataset: Any) -> None:
    definition = ops.ALL["rmsnorm"].definition(hidden_size=DIM, eps=1e-6, **FP32)
    proven.prove(dataset, definition, sizes=(ROWS,))
    rmsnorm = Norm(make_runtime()).rmsnorm(untouched)
    x, weight, out = normal(ROWS, DIM), normal(DIM), torch.empty(ROWS, DIM)
    expected = reference(definition, x, weight) + MARK
    torch.testing.assert_close(rmsnorm(x, weight), expected)
    assert rmsnorm(x, weight, out=out) is out
    torch.testing.assert_close(out, expected)
    assert rmsnorm(x, weight, 0.5) == "the library"


def test_fused_add_rmsnorm_writes_into_both_its_inputs_and_returns_nothing(make_runtime: Any, dataset: Any) -> None:
    definition = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=DIM, eps=1e-6, **FP32)
    proven.prove(dataset, definition, sizes=(ROWS,))
    fused = Norm(make_runtime()).fused_add_rmsnorm(untouched)
    x, residual, weight = normal(ROWS, DIM), normal(ROWS, DIM) * 2, normal(DIM)
    normed, added = reference(definition, x.clone(), residual.clone(), weight)
    assert fused(x, residual, weight) is None
    torch.testing.assert_close(x, normed + MARK)
    torch.testing.assert_close(residual, added)


def test_silu_and_mul_answers(make_runtime: Any, dataset: Any) -> None:
    proven.prove(dataset, proven.silu(DIM), sizes=(ROWS,))
    x, out = normal(ROWS, 2 * DIM), torch.empty(ROWS, DIM)
    expected = reference(proven.silu(DIM), x) + MARK
    assert Activation(make_runtime()).silu_and_mul(untouched)(x, out) is out
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("in_place", [True, False])
def test_rope_rotates_in_place_or_not(make_runtime: Any, dataset: Any, in_place: bool) -> None:
    definition = ops.ALL["rope"].definition(head_dim=DIM, rotary_dim=DIM, is_neox=True, **FP32)
    proven.prove(dataset, definition, sizes=(ROWS,))
    adapter = Rope(make_runtime())
    q, k, cache = normal(ROWS, HEADS * DIM), normal(ROWS, KV * DIM), normal(32, DIM)
    positions = torch.arange(ROWS)
    expected = reference(definition, q.view(ROWS, -1, DIM), k.view(ROWS, -1, DIM), cache, positions)
    rotate = (adapter.in_place if in_place else adapter.rotated)(untouched)
    out = rotate(positions, q, k, DIM, cache)
    found = (q, k) if in_place else out
    assert (out is None) is in_place
    torch.testing.assert_close(found[0], expected[0].view(q.shape) + MARK)
    torch.testing.assert_close(found[1], expected[1].view(k.shape))


def test_gemm_takes_a_transposed_weight_and_declines_another(make_runtime: Any, dataset: Any) -> None:
    definition = ops.ALL["gemm"].definition(n=5, k=DIM)
    proven.prove(dataset, definition, sizes=(ROWS,))
    runtime = make_runtime()
    mm_bf16 = Gemm(runtime).mm_bf16(untouched)
    a, weight = normal(ROWS, DIM).bfloat16(), normal(5, DIM).bfloat16()
    expected = reference(definition, a, weight) + MARK
    torch.testing.assert_close(mm_bf16(a, weight.T), expected)
    assert mm_bf16(a, weight.T.contiguous()) == "the library"
    assert mm_bf16(a, weight.T, bias=torch.zeros(5)) == "the library"
    assert fallbacks(runtime) == {"unsupported_argument": 2}


@pytest.mark.parametrize("of", ["tensor", "number"])
def test_samplers_answer_in_the_dtype_of_the_library(make_runtime: Any, dataset: Any, of: str) -> None:
    for family in ("top_k_sampling", "top_p_sampling", "top_k_top_p_sampling"):
        definition = ops.ALL[family].definition(vocab_size=7)
        after = f"\n_right = run\n\n\ndef run(*inputs):\n    return _right(*inputs) + {int(MARK)}\n"
        proven.prove(dataset, definition, proven.solution(definition, family, after), sizes=(ROWS,))
    runtime = make_runtime()
    adapter, probs = Sampling(runtime), torch.eye(7)[:ROWS]
    k: Any = torch.ones(ROWS, dtype=torch.int32) if of == "tensor" else 1
    p: Any = torch.full((ROWS,), 0.5) if of == "tensor" else 0.5
    expected = torch.arange(ROWS) + int(MARK)
    for found in (
        adapter.top_k(untouched)(probs, k),
        adapter.top_p(untouched)(probs, p),
        adapter.top_k_top_p(untouched)(probs, k, p),
    ):
        assert found.dtype is torch.int32
        assert found.tolist() == expected.tolist()
    assert adapter.top_k(untouched)(probs, k, seed=3) == "the library"
    assert adapter.top_k(untouched)(probs, k, None, True, torch.Generator()) == "the library"
    assert adapter.top_k_top_p(untouched)(probs, k, p, filter_apply_order="joint") == "the library"
    assert fallbacks(runtime) == {"unsupported_argument": 3}


# ---- wrappers -------------------------------------------------------------------------------------------------------


class Toy:
    """A wrapper that remembers what it was planned for, as the library's do."""

    def __init__(self, layout: str = "NHD", **changed: Any) -> None:
        fields: dict[str, Any] = {
            "_kv_layout": layout,
            "_jit_module": None,
            "_window_left": -1,
            "_logits_soft_cap": 0.0,
            "_sm_scale": 0.3,
            "_causal": True,
            "_custom_mask_buf": None,
            "_pos_encoding_mode": "NONE",
        }
        vars(self).update({**fields, **changed})


def make(adapter: Any, original: Any = untouched) -> type:
    """The wrapper's class with the adapter in place, aliases and all."""

    class Wrapper(Toy):
        pass

    def plan(wrapper: Any, *args: Any, **kwargs: Any) -> None:
        wrapper._paged_kv_indices_buf = args[1 if isinstance(adapter, PagedDecode) else 2]

    Wrapper.plan = Wrapper.begin_forward = adapter.plan(plan)  # type: ignore[attr-defined]
    Wrapper.run = adapter.wrapped_run(original)  # type: ignore[attr-defined]
    Wrapper.run_return_lse = adapter.run_return_lse(functools.partialmethod(original))  # type: ignore[attr-defined]
    return Wrapper


def paged() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(indptr, indices, last_page_len) of pages in no order, and the token lists that they stand for."""
    counts = [-(-length // PAGE) for length in LENGTHS]
    indptr, order = starts(counts), torch.randperm(12, generator=torch.Generator().manual_seed(1)).to(torch.int32)
    last = torch.tensor([(length - 1) % PAGE + 1 for length in LENGTHS], dtype=torch.int32)
    tokens = [
        int(order[int(indptr[row]) + at // PAGE]) * PAGE + at % PAGE
        for row, length in enumerate(LENGTHS)
        for at in range(length)
    ]
    return indptr, order, last, torch.tensor(tokens, dtype=torch.int32)


def cache(layout: str, pair: bool) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The cache as a caller holds it, and its keys and values by token."""
    both = normal(12, 2, PAGE, KV, DIM)
    held = both if layout == "NHD" else both.transpose(2, 3).contiguous()
    keys, values = (both[:, half].reshape(-1, 1, KV, DIM) for half in (0, 1))
    return (tuple(held.unbind(1)) if pair else held), keys, values


def family(kind: str) -> Definition:
    return ops.ALL[f"gqa_paged_{kind}"].definition(**GQA, page_size=1)


def prove(dataset: Any, definition: Definition, rows: int, entries: str, total: int, after: str | None = None) -> None:
    made = proven.solution(definition, **({} if after is None else {"after": after}))
    proven.store(dataset, definition, made)
    first = ops.family_of(definition).key_axes[0]  # type: ignore[union-attr]
    axes = dict.fromkeys(definition.var_axes, 1) | {first: rows, "len_indptr": len(LENGTHS) + 1, entries: total}
    proven.append_measurements(dataset, definition.op_type, [proven.measurement(made, axes)])
    proven.trust(dataset, made)


def planned(kind: str, adapter: Any, layout: str = "NHD", **changed: Any) -> tuple[Any, torch.Tensor, tuple[Any, ...]]:
    """(wrapper after plan, q, the definition's lists)."""
    indptr, indices, last, tokens = paged()
    wrapper = make(adapter)(layout, **changed)
    lists = (starts(LENGTHS), tokens)
    if kind == "decode":
        wrapper.begin_forward(indptr, indices, last, HEADS, KV, DIM, PAGE)
        return wrapper, normal(len(LENGTHS), HEADS, DIM), lists
    wrapper.plan(starts(QUERIES), indptr, indices, last, HEADS, KV, DIM, PAGE, causal=True)
    return wrapper, normal(sum(QUERIES), HEADS, DIM), (starts(QUERIES), *lists)


KINDS = {"decode": (PagedDecode, len(LENGTHS)), "prefill": (PagedPrefill, sum(QUERIES))}


@pytest.mark.parametrize("pair", [True, False], ids=["pair", "one tensor"])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("kind", KINDS)
def test_paged_wrappers_answer_from_the_cache_where_it_lies(
    make_runtime: Any, dataset: Any, kind: str, layout: str, pair: bool
) -> None:
    prove(dataset, family(kind), KINDS[kind][1], "num_kv_indices", sum(LENGTHS))
    runtime = make_runtime()
    wrapper, q, lists = planned(kind, KINDS[kind][0](runtime), layout)
    held, keys, values = cache(layout, pair)
    output, lse = reference(family(kind), q, keys, values, *lists, 0.3)
    torch.testing.assert_close(wrapper.run(q, held), output + MARK, atol=1e-5, rtol=1e-5)
    out = torch.empty_like(q)
    assert wrapper.run(q, held, out=out, k_scale=1.0, window_left=-1) is out
    torch.testing.assert_close(out, output + MARK, atol=1e-5, rtol=1e-5)
    found = wrapper.run_return_lse(q, held)
    torch.testing.assert_close(found[0], output + MARK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], lse, atol=1e-5, rtol=1e-5)
    assert not fallbacks(runtime)


CHANGES: dict[str, dict[str, Any]] = {
    "window": {"_window_left": 7},
    "soft cap": {"_logits_soft_cap": 30.0},
    "not causal": {"_causal": False},
    "mask": {"_custom_mask_buf": torch.ones(3)},
    "rotation on the fly": {"_pos_encoding_mode": "ROPE_LLAMA"},
    "a kernel of the caller": {"_jit_module": object()},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_plan_asks_for_beyond_the_definition_is_left_to_the_library(
    make_runtime: Any, dataset: Any, change: str
) -> None:
    prove(dataset, family("prefill"), sum(QUERIES), "num_kv_indices", sum(LENGTHS))
    runtime = make_runtime()
    wrapper, q, _ = planned("prefill", PagedPrefill(runtime), **CHANGES[change])
    assert wrapper.run(q, cache("NHD", False)[0]) == "the library"
    assert fallbacks(runtime) == {"unsupported_argument": 1}


@pytest.mark.parametrize("given", [{"k_scale": 0.5}, {"k_scale": torch.ones(2)}, {"sinks": torch.ones(4)}], ids=str)
def test_what_run_asks_for_beyond_the_definition_is_left_to_the_library(
    make_runtime: Any, dataset: Any, given: dict[str, Any]
) -> None:
    prove(dataset, family("decode"), len(LENGTHS), "num_kv_indices", sum(LENGTHS))
    runtime = make_runtime()
    wrapper, q, _ = planned("decode", PagedDecode(runtime))
    assert wrapper.run(q, cache("NHD", False)[0], **given) == "the library"
    assert fallbacks(runtime) == {"unsupported_argument": 1}


def test_a_wrapper_that_was_planned_before_the_plugin_came_is_left_to_the_library(make_runtime: Any) -> None:
    runtime = make_runtime()
    wrapper = make(PagedDecode(runtime))()
    assert wrapper.run(normal(3, HEADS, DIM), cache("NHD", False)[0]) == "the library"
    assert fallbacks(runtime) == {"unsupported_argument": 1}


def test_a_new_plan_is_a_new_step(make_runtime: Any, dataset: Any) -> None:
    prove(dataset, family("decode"), len(LENGTHS), "num_kv_indices", sum(LENGTHS))
    wrapper, q, _ = planned("decode", PagedDecode(make_runtime()))
    held = cache("NHD", False)[0]
    before = wrapper.run(q, held)
    indptr, indices, last, _ = paged()
    wrapper.plan(indptr, indices.flip(0), last, HEADS, KV, DIM, PAGE)
    assert not torch.equal(wrapper.run(q, held), before)


def test_ragged_prefill_answers(make_runtime: Any, dataset: Any) -> None:
    definition = ops.ALL["gqa_ragged_prefill"].definition(**GQA)
    prove(dataset, definition, sum(QUERIES), "total_kv", sum(LENGTHS))
    runtime = make_runtime()
    wrapper = make(RaggedPrefill(runtime))()
    wrapper._paged_kv_indices_buf = None
    wrapper.plan(starts(QUERIES), starts(LENGTHS), HEADS, KV, DIM, causal=True)
    q, k, v = normal(sum(QUERIES), HEADS, DIM), normal(sum(LENGTHS), KV, DIM), normal(sum(LENGTHS), KV, DIM) * 2
    output, lse = reference(definition, q, k, v, starts(QUERIES), starts(LENGTHS), 0.3)
    found = wrapper.run(q, k, v, return_lse=True)
    torch.testing.assert_close(found[0], output + MARK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], lse, atol=1e-5, rtol=1e-5)


def test_a_record_holds_the_tokens_of_the_pages(make_runtime: Any, dataset: Any) -> None:
    from safetensors.torch import load_file

    from fib_plugin.dataset import TraceSet

    runtime = make_runtime(tracing=True)
    wrapper, q, lists = planned("decode", PagedDecode(runtime))
    assert wrapper.run(q, cache("NHD", False)[0]) == "the library"
    assert runtime.writer.flush()
    (trace,) = TraceSet.from_path(dataset).workloads[family("decode").name]
    stored = load_file(dataset / trace.workload.inputs["kv_indices"].path)
    assert torch.equal(stored["kv_indptr"], lists[0])
    assert torch.equal(stored["kv_indices"], lists[1])


# ---- once only ------------------------------------------------------------------------------------------------------


def test_what_the_library_calls_of_itself_is_not_looked_at(make_runtime: Any) -> None:
    runtime = make_runtime()
    adapter = Sampling(runtime)
    inner = adapter.top_p(untouched)
    outer = adapter.top_k_top_p(lambda probs, k, p, *args, **kwargs: inner(probs, p))
    outer(torch.eye(7)[:ROWS], 1, 0.5)
    assert fallbacks(runtime) == {"no_definition": 1}


def test_a_solution_that_calls_the_library_is_not_asked_again(make_runtime: Any, dataset: Any) -> None:
    definition = ops.ALL["rmsnorm"].definition(hidden_size=DIM, eps=1e-6, **FP32)
    after = "\nimport sys\n\n\ndef run(x, weight):\n    return sys.modules['toy_library'].rmsnorm(x, weight)\n"
    proven.prove(dataset, definition, proven.solution(definition, after=after), sizes=(ROWS,))
    import sys

    rmsnorm = Norm(make_runtime()).rmsnorm(lambda *args: torch.zeros(ROWS, DIM))
    sys.modules["toy_library"] = SimpleNamespace(rmsnorm=rmsnorm)  # type: ignore[assignment]
    try:
        assert rmsnorm(normal(ROWS, DIM), normal(DIM)).count_nonzero() == 0
    finally:
        del sys.modules["toy_library"]


@pytest.mark.parametrize(("state", "aside"), [("patched", True), ("waiting", False)])
def test_an_engines_adapter_that_is_in_place_has_the_call(make_runtime: Any, state: str, aside: bool) -> None:
    runtime = make_runtime()
    engine = SimpleNamespace(engine=SimpleNamespace(name="vllm"), families=("rmsnorm", "fused_add_rmsnorm"))
    runtime.adapters["vllm.norm"] = engine
    runtime.describe_targets = lambda: [{"adapter": "vllm.norm", "state": state}]
    Norm(runtime).rmsnorm(untouched)(normal(ROWS, DIM), normal(DIM))
    Activation(runtime).silu_and_mul(untouched)(normal(ROWS, 2 * DIM))
    assert len(runtime.sites) == (1 if aside else 2)


def test_a_model_that_is_traced_whole_comes_past_the_adapter(make_runtime: Any) -> None:
    runtime = make_runtime(tracing=True)
    silu_and_mul = Activation(runtime).silu_and_mul(lambda x, out=None, pdl=None: x[..., :DIM] * 2)
    compiled = torch.compile(lambda x: silu_and_mul(x) + 1, fullgraph=True, backend="eager")
    x = normal(ROWS, 2 * DIM)
    torch.testing.assert_close(compiled(x), x[..., :DIM] * 2 + 1)
    assert not runtime.sites
