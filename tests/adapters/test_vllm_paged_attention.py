"""vLLM's GPU attention backends, their real classes with a kernel in torch: values, layouts, declines, graphs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import proven
import pytest
import torch
from proven import MARK

pytest.importorskip("vllm")
from fib_plugin.adapters.vllm.paged_attention import (
    FlashAttention,
    FlashInferAttention,
    PagedAttention,
    TritonAttention,
)
from vllm.v1.attention.backends import flash_attn, triton_attn

from fib_plugin import ops
from fib_plugin.dispatch.site import Entry
from fib_plugin.runtime import Runtime

HEADS, KV, DIM, SIZE, BLOCKS = 4, 2, 8, 16, 12
SCALE = 0.3
LENGTHS = (17, 5, 33)
DECODE, PREFILL = (1, 1, 1), (3, 1, 20)
QUERIES = {"decode": DECODE, "prefill": PREFILL}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def definition(kind: str) -> Any:
    family = ops.ALL[f"gqa_paged_{kind}"]
    return family.definition(num_qo_heads=HEADS, num_kv_heads=KV, head_dim=DIM, page_size=1, dtype="float32")


def common(queries: tuple[int, ...], lengths: tuple[int, ...] = LENGTHS, **changed: Any) -> Any:
    """What a metadata builder is given. Blocks of a request are in no order, as in a served engine."""
    order = torch.randperm(BLOCKS, generator=torch.Generator().manual_seed(1)).to(torch.int32)
    table = torch.zeros(len(lengths), 4, dtype=torch.int32)
    used = 0
    for row, length in enumerate(lengths):
        count = -(-length // SIZE)
        table[row, :count] = order[used : used + count]
        used += count
    fields: dict[str, Any] = {
        "query_start_loc": torch.tensor([0, *torch.tensor(queries).cumsum(0).tolist()], dtype=torch.int32),
        "seq_lens": torch.tensor(lengths, dtype=torch.int32),
        "seq_lens_cpu_upper_bound": torch.tensor(lengths, dtype=torch.int32),
        "num_reqs": len(lengths),
        "num_actual_tokens": sum(queries),
        "max_query_len": max(queries),
        "max_seq_len": max(lengths),
        "block_table_tensor": table,
        "causal": True,
    }
    return SimpleNamespace(**{**fields, **changed})


def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, **kw: Any) -> None:
    """Causal attention over [blocks, size, kv_heads, dim], query by query."""
    starts, lengths = kw["cu_seqlens_q"].tolist(), kw["seqused_k"].tolist()
    for row, length in enumerate(lengths):
        pages = kw["block_table"][row, : -(-length // SIZE)].long()
        keys, values = (cache[pages].flatten(0, 1)[:length] for cache in (k, v))
        count = starts[row + 1] - starts[row]
        for at in range(count):
            seen = length - count + at + 1
            for head in range(HEADS):
                key, value = (half[:seen, head // (HEADS // KV)] for half in (keys, values))
                token = starts[row] + at
                out.view(-1, HEADS, DIM)[token, head] = (key @ q[token, head] * kw["softmax_scale"]).softmax(0) @ value


@dataclasses.dataclass
class Case:
    """One backend of the engine with our adapter around it."""

    adapter: PagedAttention
    impl: Any
    build: Callable[..., Any]
    forward: Callable[..., torch.Tensor]

    def run(self, queries: tuple[int, ...], cache: torch.Tensor, padded: int = 0, **changed: Any) -> torch.Tensor:
        metadata = self.build(BUILDER, 0, common(queries, **changed))
        return self.attend(metadata, cache, padded)

    def attend(self, metadata: Any, cache: torch.Tensor, padded: int = 0) -> torch.Tensor:
        tokens = metadata.num_actual_tokens + padded
        query = normal(tokens, HEADS, DIM)
        output = torch.full((tokens, HEADS * DIM), 7.0)
        layer = SimpleNamespace(_q_scale=torch.ones(1), _k_scale=torch.ones(1), _v_scale=torch.ones(1))
        answer = self.forward(self.impl, layer, query, query, query, cache, metadata, output)
        assert answer is output
        return output


BUILDER = SimpleNamespace(vllm_config=None)


def graphs_up_to(size: int) -> Any:
    mode = SimpleNamespace(has_full_cudagraphs=lambda: True)
    config = SimpleNamespace(cudagraph_mode=mode, max_cudagraph_capture_size=size)
    return SimpleNamespace(vllm_config=SimpleNamespace(compilation_config=config))


def metadata_of(given: Any) -> Any:
    """The metadata of a backend that keeps what the builder got."""
    names = ("num_actual_tokens", "max_query_len", "query_start_loc", "max_seq_len", "seq_lens", "causal")
    return SimpleNamespace(
        **{name: getattr(given, name) for name in names},
        block_table=given.block_table_tensor,
        use_cascade=False,
        scheduler_metadata=None,
        max_num_splits=0,
        mm_prefix_query_range_tensor=None,
        mm_prefix_range_tensor=None,
        rswa_prefix_lens=None,
        rswa_window=None,
        seq_threshold_3D=0,
        num_par_softmax_segments=0,
        softmax_segm_output=None,
        softmax_segm_max=None,
        softmax_segm_expsum=None,
    )


@pytest.fixture(params=["flash", "triton"])
def case(request: Any, monkeypatch: pytest.MonkeyPatch, make_runtime: Any, dataset: Any) -> Callable[..., Case]:
    def make(*proven_kinds: str, after: str = proven.MARKED, length: int = 18, **options: Any) -> Case:
        for kind in proven_kinds:
            made = definition(kind)
            solution = proven.solution(made, f"fast__{made.name}", after=after)
            proven.store(dataset, made, solution)
            rows = {"batch_size": 3} if kind == "decode" else {"total_q": sum(PREFILL)}
            axes = dict.fromkeys(made.var_axes, 1) | rows | {"len_indptr": 4, "num_kv_indices": 3 * length}
            proven.append_measurements(dataset, made.op_type, [proven.measurement(solution, axes)])
            proven.trust(dataset, solution)
        runtime: Runtime = make_runtime(**options)
        if request.param == "flash":
            adapter: PagedAttention = FlashAttention(runtime)
            impl = flash_attn.FlashAttentionImpl(HEADS, DIM, SCALE, KV, None, None, "auto")
            impl.vllm_flash_attn_version = 3
            monkeypatch.setattr(flash_attn, "flash_attn_varlen_func", kernel, raising=False)
            original = flash_attn.FlashAttentionImpl.forward
        else:
            adapter = TritonAttention(runtime)
            impl = triton_attn.TritonAttentionImpl(HEADS, DIM, SCALE, KV, None, None, "auto")
            monkeypatch.setattr(triton_attn, "unified_attention", kernel, raising=False)
            original = triton_attn.TritonAttentionImpl.forward
        build = adapter.build(lambda builder, prefix, given, fast: metadata_of(given))
        return Case(adapter, impl, build, adapter.forward(original))

    return make


def cache(heads_first: bool = True) -> torch.Tensor:
    """[blocks, kv_heads, size, 2 * dim], what 0.32 and later hold, in either order in memory."""
    made = normal(BLOCKS, KV, SIZE, 2 * DIM)
    return made if heads_first else made.transpose(1, 2).contiguous().transpose(1, 2)


def reasons(case: Case) -> dict[str, int]:
    lines = case.adapter.runtime.snapshot()["status"]["ops"].values()
    return {reason: count for line in lines for reason, count in line["fallbacks"].items()}


@pytest.mark.parametrize("heads_first", [True, False])
@pytest.mark.parametrize("kind", QUERIES)
def test_a_solution_answers_with_the_values_that_the_engine_would_have_written(
    case: Any, kind: str, heads_first: bool
) -> None:
    ours, theirs = case(kind), case(apply=False)
    engine = theirs.run(QUERIES[kind], cache(heads_first))
    torch.testing.assert_close(ours.run(QUERIES[kind], cache(heads_first)), engine + MARK, atol=1e-5, rtol=1e-5)
    assert not reasons(ours)


def test_rows_of_padding_are_left_alone(case: Any) -> None:
    output = case("decode").run(DECODE, cache(), padded=2)
    assert bool((output[3:] == 7.0).all())
    assert not bool((output[:3] == 7.0).any())


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("kind", QUERIES)
def test_caches_of_older_versions_are_read_where_they_lie(case: Any, kind: str, dim: int) -> None:
    made = case(kind)
    combined = cache()
    parts = combined.transpose(1, 2).split(DIM, dim=-1)
    older = torch.stack(parts, dim)
    torch.testing.assert_close(made.run(QUERIES[kind], older), made.run(QUERIES[kind], combined))


def test_a_mixed_batch_is_a_prefill_in_which_some_requests_have_one_query(case: Any) -> None:
    made = case("prefill")
    made.run(PREFILL, cache())
    (site,) = made.adapter.runtime.sites
    assert site.definition.name == definition("prefill").name


CHANGES: dict[str, Callable[[Any, Any], None]] = {
    "window": lambda impl, metadata: setattr(impl, "sliding_window", (15, 0)),
    "soft cap": lambda impl, metadata: setattr(impl, "logits_soft_cap", 30.0),
    "sinks": lambda impl, metadata: setattr(impl, "sinks", torch.zeros(HEADS)),
    "alibi": lambda impl, metadata: setattr(impl, "alibi_slopes", torch.zeros(HEADS)),
    "encoder": lambda impl, metadata: setattr(impl, "attn_type", "encoder_only"),
    "context of other ranks": lambda impl, metadata: setattr(impl, "dcp_world_size", 2),
    "chunks": lambda impl, metadata: setattr(impl, "chunk_lookback", 1),
    "cascade": lambda impl, metadata: setattr(metadata, "use_cascade", True),
    "prefix of an image": lambda impl, metadata: setattr(metadata, "mm_prefix_range", {0: [(0, 3)]}),
    "not causal": lambda impl, metadata: setattr(metadata.fib_planned.common, "causal", False),
    "causal by request": lambda impl, metadata: setattr(metadata.fib_planned.common, "causal", torch.ones(3)),
    "lengths on the device alone": lambda impl, metadata: setattr(
        metadata.fib_planned.common, "seq_lens_cpu_upper_bound", None
    ),
    "a builder of somebody else": lambda impl, metadata: delattr(metadata, "fib_planned"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_definition_lacks_is_left_to_the_engine_and_counted(case: Any, change: str) -> None:
    made = case("decode")
    metadata = made.build(BUILDER, 0, common(DECODE))
    CHANGES[change](made.impl, metadata)
    made.forward = made.adapter.forward(lambda *args: args[7])
    assert bool((made.attend(metadata, cache()) == 7.0).all())
    assert reasons(made) == {"unsupported_argument": 1}


def test_a_cache_of_another_dtype_is_left_to_the_engine(case: Any) -> None:
    made = case("decode")
    made.forward = made.adapter.forward(lambda *args: args[7])
    made.attend(made.build(BUILDER, 0, common(DECODE)), cache().to(torch.float8_e4m3fn))
    assert reasons(made) == {"unsupported_argument": 1}


def test_layers_of_a_step_share_their_lists_and_steps_do_not(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fib_plugin.adapters.live import paged

    made, asked, own = case("decode"), [], paged.device_lists
    monkeypatch.setattr(paged, "device_lists", lambda *args: asked.append(args) or own(*args))
    metadata = made.build(BUILDER, 0, common(DECODE))
    for _ in range(3):
        made.attend(metadata, cache())
    assert len(asked) == 1
    made.run(DECODE, cache())
    assert len(asked) == 2


def test_metadata_copied_for_another_block_table_is_another_step(case: Any) -> None:
    import copy

    made = case("decode")
    metadata = made.build(BUILDER, 0, common(DECODE))
    first = made.attend(metadata, cache()).clone()
    other = copy.copy(metadata)
    other.block_table = metadata.block_table.flip(0).contiguous()
    assert not torch.equal(made.attend(other, cache()), first)


def test_no_list_is_made_where_no_solution_runs(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fib_plugin.adapters.live import paged

    made = case(tracing=True)
    monkeypatch.setattr(paged, "device_lists", None)
    made.run(DECODE, cache())
    made.run(PREFILL, cache())
    assert reasons(made) == {"no_definition": 2}


def test_a_record_holds_dense_lists_whatever_the_layout(case: Any, dataset: Any) -> None:
    made = case(tracing=True)
    made.run(DECODE, cache())
    made.adapter.runtime.close()
    from fib_plugin.dataset import TraceSet

    (trace,) = TraceSet.from_path(dataset).workloads[definition("decode").name]
    assert trace.workload.axes == {"batch_size": 3, "num_pages": BLOCKS * SIZE, "len_indptr": 4, "num_kv_indices": 55}


def test_a_replay_is_recorded_with_the_lengths_it_ran_with(case: Any, dataset: Any) -> None:
    from safetensors.torch import load_file

    from fib_plugin.dataset import TraceSet

    made, graph = case(tracing=True), type("Graph", (), {})()
    given, later = common(DECODE, lengths=(1, 1, 1)), common(DECODE)
    runtime = made.adapter.runtime
    metadata = made.build(graphs_up_to(8), 0, given)
    made.attend(metadata, cache())
    runtime.graphs.begin(graph)
    made.attend(metadata, cache())
    runtime.graphs.end()
    # Between replays the engine writes the next step into the same buffers.
    given.seq_lens.copy_(later.seq_lens), given.block_table_tensor.copy_(later.block_table_tensor)
    runtime.graphs.replayed(graph)
    assert runtime.writer.flush()
    warm_up, replay = TraceSet.from_path(dataset).workloads[definition("decode").name]
    assert warm_up.workload.axes["num_kv_indices"] == 3
    assert replay.workload.axes["num_kv_indices"] == sum(LENGTHS)
    stored = load_file(dataset / replay.workload.inputs["kv_indices"].path)
    assert stored["kv_indptr"].tolist() == [0, 17, 22, 55]
    (name,) = runtime.snapshot()["calls"]
    assert sum(runtime.snapshot()["calls"][name].values()) == 2


def test_probation_compares_with_the_engines_op(case: Any) -> None:
    made = case("decode", probation=True)
    engine = case(apply=False).run(DECODE, cache())
    for _ in range(4):
        torch.testing.assert_close(made.run(DECODE, cache()), engine)
    assert reasons(made).get("wrong_here", 0) >= 1


def entry_of(made: Case) -> tuple[Any, Entry]:
    (site,) = made.adapter.runtime.sites
    ((key, entry),) = site.entries.items()
    return key, entry


def test_a_size_that_graphs_will_hold_has_one_choice_for_all_lengths(case: Any) -> None:
    made = case("decode")
    for builder, lengths in ((graphs_up_to(8), (1, 1, 1)), (graphs_up_to(3), LENGTHS)):
        metadata = made.build(builder, 0, common(DECODE, lengths=lengths))
        made.attend(metadata, cache())
    key, entry = entry_of(made)
    assert key == (3, ops.ANY_LENGTH)
    assert entry.calls == 2
    assert entry.run is not None


def test_a_size_beyond_what_graphs_hold_is_chosen_by_length(case: Any) -> None:
    made = case("decode")
    made.attend(made.build(graphs_up_to(2), 0, common(DECODE)), cache())
    assert entry_of(made)[0] == (3, ops.length_class(18))


def test_flashinfers_metadata_needs_no_block_table_of_its_own(make_runtime: Any, dataset: Any) -> None:
    made = definition("decode")
    solution = proven.solution(made)
    proven.store(dataset, made, solution)
    axes = dict.fromkeys(made.var_axes, 1) | {"batch_size": 3, "len_indptr": 4, "num_kv_indices": 55}
    proven.append_measurements(dataset, made.op_type, [proven.measurement(solution, axes)])
    proven.trust(dataset, solution)
    adapter = FlashInferAttention(make_runtime())
    impl = SimpleNamespace(
        num_heads=HEADS,
        num_kv_heads=KV,
        head_size=DIM,
        scale=SCALE,
        sliding_window=(-1, -1),
        logits_soft_cap=None,
        alibi_slopes=None,
        sinks=None,
    )
    build = adapter.build(lambda builder, prefix, given, fast: SimpleNamespace(num_actual_tokens=3))
    ours = Case(adapter, impl, build, adapter.forward(lambda *args: args[7])).run(DECODE, cache())
    given, expected = common(DECODE), torch.empty(3, HEADS * DIM)
    keys, values = cache().transpose(1, 2).split(DIM, dim=-1)
    kernel(
        normal(3, HEADS, DIM),
        keys,
        values,
        expected,
        cu_seqlens_q=given.query_start_loc,
        seqused_k=given.seq_lens,
        block_table=given.block_table_tensor,
        softmax_scale=SCALE,
    )
    torch.testing.assert_close(ours, expected + MARK, atol=1e-5, rtol=1e-5)
    assert math.isclose(float(ours.mean() - expected.mean()), MARK, rel_tol=1e-4)


@pytest.mark.parametrize("kind", QUERIES)
def test_the_displaced_ops_layout_holds_the_definitions_tokens(kind: str) -> None:
    """What ``fib bench`` hands to the engine's op, with the kernel in torch."""
    from fib_plugin.adapters.vllm.blocks import lay_out

    pages, lengths = 80, torch.tensor(LENGTHS)
    indptr = torch.tensor([0, *lengths.cumsum(0).tolist()], dtype=torch.int32)
    indices = torch.randperm(pages, generator=torch.Generator().manual_seed(3))[: int(indptr[-1])].to(torch.int32)
    queries = QUERIES[kind]
    qo_indptr = torch.tensor([0, *torch.tensor(queries).cumsum(0).tolist()], dtype=torch.int32)
    q = normal(sum(queries), HEADS, DIM)
    keys, values = normal(pages, 1, KV, DIM), normal(pages + 1, 1, KV, DIM)[1:]
    starts = (indptr,) if kind == "decode" else (qo_indptr, indptr)
    laid, out = lay_out(q, keys, values, *starts, indices, SCALE), torch.empty(q.shape)
    kernel(
        q,
        laid.keys,
        laid.values,
        out,
        cu_seqlens_q=laid.query_start_loc,
        seqused_k=laid.seq_lens,
        block_table=laid.block_table,
        softmax_scale=laid.scale,
    )
    scope: dict[str, Any] = {}
    exec(definition(kind).reference, scope)
    torch.testing.assert_close(out, scope["run"](q, keys, values, *starts, indices, SCALE)[0], atol=1e-5, rtol=1e-5)
    assert (laid.longest, laid.longest_query, laid.requests) == (33, max(queries), 3)
