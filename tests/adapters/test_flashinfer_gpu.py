"""The real library on a GPU: the adapters' inputs give the definition's reference what the library computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.flashinfer import ADAPTERS
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
        made.append(Installation([adapter(runtime) for adapter in ADAPTERS]))
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
