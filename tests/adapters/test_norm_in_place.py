"""Norms that write where the engine's kernel does: nothing is copied unless a solution's result lies elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.live.norm import LiveNorm, write_back
from proven import MARK
from torch.utils._python_dispatch import TorchDispatchMode

from fib_plugin import ops
from fib_plugin.dispatch.opaque import opaque

ROWS, WIDTH, EPS = 4, 16, 1e-5
FUSED = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=WIDTH, eps=EPS, dtype="float32")


class Ops(TorchDispatchMode):
    """Names of the ops that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((ROWS, WIDTH), 2.0), torch.full((ROWS, WIDTH), 3.0)


# ---- write_back -----------------------------------------------------------------------------------------------------


def test_a_result_that_is_there_already_is_not_moved() -> None:
    x, residual = pair()
    with Ops() as ran:
        write_back((x, residual), (x, residual))
        write_back((x.view_as(x), residual.view_as(residual)), (x, residual))
    assert "copy_" not in ran.names


@pytest.mark.parametrize("swapped", [False, True], ids=["elsewhere", "in each other's place"])
def test_a_result_that_lies_elsewhere_is_copied(swapped: bool) -> None:
    x, residual = pair()
    result = (residual, x) if swapped else (residual.clone(), x.clone())
    write_back(result, (x, residual))
    assert (x == 3.0).all()
    assert (residual == 2.0).all()


def test_moving_a_result_counts_as_the_solutions_time(make_runtime: Callable[..., Any]) -> None:
    runtime = make_runtime(tracing=True)
    for in_place in (True, False):
        live = LiveNorm(
            runtime, f"toy{in_place}.norm", {"rmsnorm": torch.add, "fused_add_rmsnorm": torch.add}, in_place
        )
        live.rmsnorm(pair()[0], torch.ones(WIDTH), EPS)
        live.fused_add_rmsnorm(*pair(), torch.ones(WIDTH), EPS)
    finishes = {(site.adapter, site.definition.name.split("_fp32")[0]): site.original.finish for site in runtime.sites}
    assert finishes.pop(("toyTrue.norm", "fused_add_rmsnorm")) is not None
    assert set(finishes.values()) == {None}


# ---- vLLM's op ------------------------------------------------------------------------------------------------------


@pytest.fixture
def norm(make_runtime: Callable[..., Any], dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's adapter with a solution at ROWS, and an engine whose kernel works in place."""
    pytest.importorskip("vllm")
    from fib_plugin.adapters.vllm import norm as module

    proven.prove(dataset, FUSED, sizes=(ROWS,))

    def kernel(x: Any, residual: Any, weight: Any, eps: float) -> Any:
        residual.add_(x)
        return x.fill_(-1.0), residual

    monkeypatch.setattr(module, "_engine_fused", kernel)
    return module.Norm(make_runtime())


def test_where_no_solution_wins_the_engines_kernel_runs_and_nothing_else(norm: Any) -> None:
    x, residual, weight = (torch.full((ROWS, 2 * WIDTH), value) for value in (2.0, 3.0, 1.0))
    norm.fused.body(x, residual, weight[0], EPS)  # the first call of a size is looked at
    with Ops() as ran:
        assert norm.fused.body(x, residual, weight[0], EPS) is None
    assert [name for name in ran.names if name not in ("detach", "select.int")] == ["add_.Tensor", "fill_.Scalar"]
    assert (x == -1.0).all()


def test_a_solutions_result_is_found_where_the_engines_would_be(norm: Any) -> None:
    x, residual = pair()
    norm.fused.body(x, residual, torch.ones(WIDTH), EPS)
    torch.testing.assert_close(x, torch.full_like(x, 1.0 + MARK), atol=1e-4, rtol=0)
    assert (residual == 5.0).all()


def test_a_norm_of_one_tensor_with_itself_stays_in_the_graph(norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fib_plugin.adapters.vllm.norm.is_dynamo_compiling", lambda: True)
    weight = torch.nn.Parameter(torch.ones(WIDTH))
    layer = type("Layer", (), {"has_weight": True, "variance_size_override": None, "variance_epsilon": EPS})()
    layer.weight, (x, residual) = weight, pair()
    forward = norm.forward(lambda *args: "stock")
    assert forward(layer, x, x) == "stock"
    assert forward(layer, x, residual) == (x, residual)


# ---- in a compiled graph --------------------------------------------------------------------------------------------


def test_an_op_that_writes_its_arguments_costs_a_compiled_graph_no_copy() -> None:
    """The residual is an input of the graph, as where an engine splits a model at its attention, or made in it."""
    from torch._inductor.utils import run_and_get_code

    op = opaque("test_in_place_(Tensor(a!) x, Tensor(b!) residual) -> ()", _body, lambda *args: None)

    def layers(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for _ in range(3):
            x = x @ weight
            op.call(x, residual)
        return x, residual

    def model(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return layers(x, x + 1, weight)

    x, residual = pair()
    weight = torch.eye(WIDTH)
    expected = layers(x, residual.clone(), weight)
    for function, inputs in ((layers, (x, residual, weight)), (model, (x, weight))):
        found, (code,) = run_and_get_code(torch.compile(function, dynamic=True), *inputs)
        body = code[code.index("def call(") :]
        assert body.count("torch.ops.fib.test_in_place_.default(") == 3
        # One kernel for x + 1; none where there is nothing to compute but products.
        assert len(re.findall(r"^ +cpp_fused\w+\(", body, re.MULTILINE)) == (0 if function is layers else 1)
        assert "copy_(" not in body
        if function is layers:
            torch.testing.assert_close(found, expected)
            assert found[1].data_ptr() == residual.data_ptr()


def _body(x: torch.Tensor, residual: torch.Tensor) -> None:
    residual.add_(x)
    x.mul_(0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_engines_answer_is_one_kernel(make_runtime: Callable[..., Any]) -> None:
    pytest.importorskip("vllm")
    from fib_plugin.adapters.vllm.norm import Norm
    from torch.profiler import ProfilerActivity, profile

    norm = Norm(make_runtime())
    x, residual = torch.randn(2, ROWS, 4096, device="cuda").to(torch.bfloat16)
    weight = torch.ones(4096, device="cuda", dtype=torch.bfloat16)
    total = x.float() + residual.float()
    norm.fused.body(x.clone(), residual.clone(), weight, EPS)  # the first call of a size is looked at
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        norm.fused.body(x, residual, weight, EPS)
        torch.cuda.synchronize()
    kernels = [event.name for event in seen.events() if str(event.device_type).endswith("CUDA")]
    assert len(kernels) == 1, kernels
    torch.testing.assert_close(residual.float(), total, atol=2e-2, rtol=2e-2)
    expected = total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + EPS)
    torch.testing.assert_close(x.float(), expected, atol=2e-2, rtol=2e-2)
