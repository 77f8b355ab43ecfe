"""The real library on a GPU: the adapters' inputs give the definition's reference what the library computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.flashinfer import ADAPTERS
from fib_plugin.adapters.torch import ADAPTERS as GRAPHS
from proven import MARK

from fib_plugin import ops
from fib_plugin.patch import Installation
from fib_plugin.schema import Definition

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
flashinfer: Any = pytest.importorskip("flashinfer") if torch.cuda.is_available() else None

HEADS, KV, DIM, PAGE, LENGTHS, QUERIES = 8, 2, 128, 16, (17, 5, 33), (3, 1, 20)
GQA = {"num_qo_heads": HEADS, "num_kv_heads": KV, "head_dim": DIM}
NEAR = {"atol": 2e-2, "rtol": 2e-2}


def normal(*shape: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, device="cuda", dtype=torch.bfloat16)


def starts(sizes: Any) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()], dtype=torch.int32)


@pytest.fixture
def install(make_runtime: Any, dataset: Any) -> Iterator[Any]:
    """Installs the adapters with a marked solution for a definition, proven at these axes."""
    made: list[Installation] = []

    def install(definition: Definition, **axes: int) -> None:
        solution = proven.solution(definition)
        proven.store(dataset, definition, solution)
        every = dict.fromkeys(definition.var_axes, 1) | axes
        proven.append_measurements(dataset, definition.op_type, [proven.measurement(solution, every)])
        proven.trust(dataset, solution)
        runtime = make_runtime()
        made.append(Installation([adapter(runtime) for adapter in (*GRAPHS, *ADAPTERS)]))
        made[-1].install()

    yield install
    for installation in made:
        installation.uninstall()


def paged(layout: str) -> tuple[Any, ...]:
    counts = [-(-length // PAGE) for length in LENGTHS]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1)).to(torch.int32)[: sum(counts)]
    last = torch.tensor([(length - 1) % PAGE + 1 for length in LENGTHS], dtype=torch.int32)
    shape = (12, 2, PAGE, KV, DIM) if layout == "NHD" else (12, 2, KV, PAGE, DIM)
    return starts(counts), order.cuda(), last, normal(*shape)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_paged_wrappers(install: Any, kind: str, layout: str) -> None:
    indptr, indices, last, cache = paged(layout)
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device="cuda")
    q = normal(len(LENGTHS) if kind == "decode" else sum(QUERIES), HEADS, DIM)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        if kind == "decode":
            wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, layout, use_tensor_cores=True)
            wrapper.begin_forward(indptr, indices, last, HEADS, KV, DIM, PAGE, q_data_type=q.dtype)
        else:
            wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, layout)
            wrapper.plan(starts(QUERIES), indptr, indices, last, HEADS, KV, DIM, PAGE, causal=True, q_data_type=q.dtype)
        return wrapper.run_return_lse(q, cache)  # type: ignore[no-any-return]

    output, lse = run()
    rows = {"batch_size": len(LENGTHS)} if kind == "decode" else {"total_q": sum(QUERIES)}
    definition = ops.ALL[f"gqa_paged_{kind}"].definition(**GQA, page_size=1)
    install(definition, **rows, len_indptr=len(LENGTHS) + 1, num_kv_indices=sum(LENGTHS))
    ours, ours_lse = run()
    torch.testing.assert_close(ours.float() - MARK, output.float(), atol=0.5, rtol=0)  # bfloat16 near 100
    torch.testing.assert_close(ours_lse, lse, **NEAR)


def test_fused_add_rmsnorm_in_place(install: Any) -> None:
    x, residual, weight = normal(4, 256), normal(4, 256) * 2, normal(256)
    expected = x.clone(), residual.clone()
    flashinfer.norm.fused_add_rmsnorm(*expected, weight, 1e-6)
    install(ops.ALL["fused_add_rmsnorm"].definition(hidden_size=256, eps=1e-6), batch_size=4)
    assert flashinfer.norm.fused_add_rmsnorm(x, residual, weight, 1e-6) is None
    torch.testing.assert_close(x.float() - MARK, expected[0].float(), atol=0.5, rtol=0)
    torch.testing.assert_close(residual, expected[1], **NEAR)


def test_every_name_of_a_method_is_replaced(install: Any) -> None:
    decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper
    before = {name: vars(decode)[name] for name in ("plan", "begin_forward", "run", "run_return_lse")}
    install(ops.ALL["rmsnorm"].definition(hidden_size=256, eps=1e-6), batch_size=4)
    assert all(vars(decode)[name] is not held for name, held in before.items())


def replayed(plan: Any, run: Any) -> list[torch.Tensor]:
    """What ``run`` leaves when it is captured after one plan and replayed after two others."""
    plan(LENGTHS)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    found = []
    for lengths in (LENGTHS, (40, 1, 16)):
        plan(lengths)
        graph.replay()
        torch.cuda.synchronize()
        found.append(out.clone())
    return found


@pytest.mark.parametrize("page", [1, PAGE])
def test_decode_in_a_graph_follows_the_plan(install: Any, page: int) -> None:
    rows, order = len(LENGTHS), torch.randperm(12 * PAGE // page).to(torch.int32).cuda()
    cache, q = normal(12 * PAGE // page, 2, page, KV, DIM), normal(rows, HEADS, DIM)

    def both() -> list[torch.Tensor]:
        room = [torch.zeros(n, dtype=torch.int32, device="cuda") for n in (rows + 1, len(order), rows)]
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            torch.empty(128 << 20, dtype=torch.uint8, device="cuda"),
            "NHD",
            use_cuda_graph=True,
            use_tensor_cores=True,
            paged_kv_indptr_buffer=room[0],
            paged_kv_indices_buffer=room[1],
            paged_kv_last_page_len_buffer=room[2],
        )

        def plan(lengths: Any) -> None:
            counts = [-(-length // page) for length in lengths]
            last = torch.tensor([(length - 1) % page + 1 for length in lengths], dtype=torch.int32)
            indices = order[: sum(counts)]
            wrapper.plan(starts(counts), indices, last, HEADS, KV, DIM, page, q_data_type=q.dtype)

        return replayed(plan, lambda: wrapper.run(q, cache))

    stock = both()
    definition = ops.ALL["gqa_paged_decode"].definition(**GQA, page_size=1)
    install(definition, batch_size=rows, len_indptr=rows + 1, num_kv_indices=sum(LENGTHS))
    for ours, theirs in zip(both(), stock, strict=True):
        torch.testing.assert_close(ours.float() - MARK, theirs.float(), atol=0.5, rtol=0)  # bfloat16 near 100


@pytest.mark.parametrize("graph", [False, True])
def test_mla_decode(install: Any, graph: bool) -> None:
    rows, heads = len(LENGTHS), 16
    cache, order = normal(12 * PAGE, 1, 576), torch.randperm(12 * PAGE).to(torch.int32).cuda()
    q_nope, q_pe = normal(rows, heads, 512), normal(rows, heads, 64)

    def both() -> list[torch.Tensor]:
        room = [torch.zeros(n, dtype=torch.int32, device="cuda") for n in (rows + 1, rows + 1, len(order), rows)]
        workspace = torch.empty(128 << 20, dtype=torch.uint8, device="cuda")
        wrapper = flashinfer.mla.BatchMLAPagedAttentionWrapper(workspace, graph, *(room if graph else ()))

        def plan(lengths: Any) -> None:
            wrapper.plan(
                qo_indptr=torch.arange(rows + 1, dtype=torch.int32),
                kv_indptr=starts(lengths),
                kv_indices=order[: sum(lengths)],
                kv_len_arr=torch.tensor(lengths, dtype=torch.int32),
                num_heads=heads,
                head_dim_ckv=512,
                head_dim_kpe=64,
                page_size=1,
                causal=False,
                sm_scale=192**-0.5,
                q_data_type=q_nope.dtype,
                kv_data_type=cache.dtype,
            )

        def run() -> torch.Tensor:
            parts = {"ckv_cache": cache[..., :512], "kpe_cache": cache[..., 512:]}
            return wrapper.run(q_nope=q_nope, q_pe=q_pe, **parts)  # type: ignore[no-any-return]

        if graph:
            return replayed(plan, run)
        plan(LENGTHS)
        return [run()]

    stock = both()
    definition = ops.ALL["mla_paged_decode"].definition(num_qo_heads=heads)
    install(definition, batch_size=rows, len_indptr=rows + 1, num_kv_indices=sum(LENGTHS))
    for ours, theirs in zip(both(), stock, strict=True):
        torch.testing.assert_close(ours.float() - MARK, theirs.float(), atol=0.5, rtol=0)


def test_experts_are_displaced_by_the_same_experts() -> None:
    """What ``fib bench`` hands to the library says what the definition does: which half of w13 is the gate."""
    from fib_plugin.adapters.flashinfer.displaced import moe

    definition = ops.ALL["moe"].definition(topk=2, num_experts=4, hidden_size=256, intermediate_size=128)
    scope: dict[str, Any] = {}
    exec(definition.reference, scope)
    ids = torch.tensor([[0, 1], [3, 2], [1, 0]], dtype=torch.int32, device="cuda")
    inputs = (normal(3, 256), normal(4, 256, 256) / 16, normal(4, 256, 128) / 16, torch.full((3, 2), 0.5).cuda(), ids)
    torch.testing.assert_close(moe.run(*inputs), scope["run"](*inputs), **NEAR)
