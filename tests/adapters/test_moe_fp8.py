"""Fp8 experts of both engines, as they hold them after loading: what a solution is given, what is declined."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import proven
import pytest
import torch
from fib_plugin.adapters.sglang import moe_fp8 as sglang_moe_fp8
from fib_plugin.adapters.sglang.moe_fp8 import MoeFp8 as SglangMoe
from fib_plugin.adapters.vllm.moe_fp8 import MoeFp8 as VllmMoe
from proven import MARK

from fib_plugin import ops
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

EXPERTS, TOPK, HIDDEN, INNER, TOKENS = 4, 2, 200, 128, 5
FP8 = torch.float8_e4m3fn


def definition(**more: Any) -> Definition:
    """In float32, so that a mark leaves the rest of a result to be seen."""
    return ops.ALL["moe_fp8_block_scale"].definition(
        topk=TOPK, num_experts=EXPERTS, hidden_size=HIDDEN, intermediate_size=INNER, dtype="float32", **more
    )


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + len(shape)))


def fp8(*shape: int, seed: int = 0) -> torch.Tensor:
    return (normal(*shape, seed=seed) * 100).clamp(-448, 448).to(FP8)


def scales(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(9)) * 1e-3 + 1e-4


def layer(**changed: Any) -> torch.nn.Module:
    parallel = SimpleNamespace(use_all2all_kernels=changed.pop("spread", False))
    fields: dict[str, Any] = {
        "w13_weight": fp8(EXPERTS, 2 * INNER, HIDDEN),
        "w13_weight_scale_inv": scales(EXPERTS, 2, 2),
        "w2_weight": fp8(EXPERTS, HIDDEN, INNER, seed=1),
        "w2_weight_scale_inv": scales(EXPERTS, 2, 1),
        "orig_dtype": torch.float32,
        "activation": "silu",
        "apply_router_weight_on_input": False,
        "expert_map": None,
        "moe_config": SimpleNamespace(experts_per_token=TOPK, has_bias=False, moe_parallel_config=parallel),
    }
    made = torch.nn.Module()
    for name, value in {**fields, **changed}.items():
        held = torch.nn.Parameter(value, requires_grad=False) if isinstance(value, torch.Tensor) else value
        setattr(made, name, held)
    return made


class StandardDispatchOutput(NamedTuple):
    """As SGLang hands tokens to its experts."""

    hidden_states: torch.Tensor
    hidden_states_scale: torch.Tensor | None
    topk_output: Any


def sglang_method(**changed: Any) -> Any:
    usual = {
        "activation": "silu",
        "is_gated": True,
        "apply_router_weight_on_input": False,
        "no_combine": False,
        "routed_scaling_factor": None,
        "gemm1_alpha": None,
        "gemm1_clamp_limit": None,
        "top_k": TOPK,
        "params_dtype": torch.float32,
    }
    config = {name: changed.pop(name) for name in list(changed) if name in usual}
    fields = {
        "block_quant": True,
        "quant_config": SimpleNamespace(weight_block_size=[128, 128]),
        "runner": SimpleNamespace(runner_backend=SimpleNamespace(value=changed.pop("backend", "triton"))),
        "moe_runner_config": SimpleNamespace(**{**usual, **config}),
    }
    return SimpleNamespace(**{**fields, **changed})


def vllm_method(**changed: Any) -> Any:
    fields = {
        "block_quant": True,
        "weight_block_size": [128, 128],
        "fp8_backend": SimpleNamespace(name=changed.pop("backend", "TRITON")),
    }
    return SimpleNamespace(**{**fields, **changed})


STOCK = torch.full((TOKENS, HIDDEN), 7.0)


class Bench:
    """One engine's adapter with a marked solution proven, and a call as that engine makes it."""

    def __init__(self, engine: str, make_runtime: Callable[..., Runtime], dataset: Path, **runtime: Any) -> None:
        proven.prove(dataset, definition(), sizes=(TOKENS,))
        self.engine = engine
        self.method = sglang_method if engine == "sglang" else vllm_method
        self.runtime = make_runtime(**runtime)
        self.adapter: Any = (SglangMoe if engine == "sglang" else VllmMoe)(self.runtime)
        self.given: list[Any] = []
        self.x = normal(TOKENS, HIDDEN, seed=3)
        self.weights = normal(TOKENS, TOPK, seed=4).softmax(-1)
        self.ids = torch.tensor([[0, 1], [3, 2], [1, 2], [0, 3], [2, 0]])
        self.apply = self.adapter.apply(self._stock)

    def _stock(self, *args: Any) -> Any:
        self.given.append(args)
        return STOCK if self.engine == "vllm" else SimpleNamespace(hidden_states=STOCK)

    def call(self, method: Any, of: Any, **changed: Any) -> torch.Tensor:
        x, weights, ids = (changed.get(name, getattr(self, name)) for name in ("x", "weights", "ids"))
        if self.engine == "vllm":
            out: torch.Tensor = self.apply(method, of, x, weights, ids, changed.get("shared"), None)
            return out
        routed = SimpleNamespace(topk_weights=weights, topk_ids=ids)
        given = StandardDispatchOutput(x, changed.get("shared"), routed)
        return self.apply(method, of, given).hidden_states  # type: ignore[no-any-return]

    def expected(self, of: Any) -> torch.Tensor:
        scope: dict[str, Any] = {}
        exec(definition().reference, scope)
        held = of.w13_weight, of.w13_weight_scale_inv, of.w2_weight, of.w2_weight_scale_inv
        return scope["run"](self.x, *held, self.weights, self.ids)  # type: ignore[no-any-return]

    @property
    def declined(self) -> int:
        return self.runtime.declined[self.adapter.name]["unsupported_argument"]


@pytest.fixture(autouse=True)
def _without_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the adapters ask of the engines' modules, without the engines around them."""
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.utils", SimpleNamespace())
    e8m0 = SimpleNamespace(is_deep_gemm_e8m0_used=lambda: False)
    monkeypatch.setitem(sys.modules, "vllm.utils.deep_gemm", e8m0)
    monkeypatch.setattr(sglang_moe_fp8, "combine_input", lambda: SimpleNamespace)


@pytest.fixture(params=["sglang", "vllm"])
def bench(request: pytest.FixtureRequest, make_runtime: Callable[..., Runtime], dataset: Path) -> Bench:
    return Bench(request.param, make_runtime, dataset)


def test_a_solution_reads_the_layers_own_weights_and_scales(bench: Bench) -> None:
    of = layer()
    torch.testing.assert_close(bench.call(bench.method(), of), bench.expected(of) + MARK)
    assert bench.given == []


def test_weights_that_are_loaded_again_are_the_ones_that_are_used(bench: Bench) -> None:
    of, method = layer(), bench.method()
    bench.call(method, of)
    of.w13_weight = torch.nn.Parameter(fp8(EXPERTS, 2 * INNER, HIDDEN, seed=20), requires_grad=False)
    of.w2_weight_scale_inv.data.mul_(3)  # type: ignore[union-attr,operator]
    torch.testing.assert_close(bench.call(method, of), bench.expected(of) + MARK)


CALLS: dict[str, dict[str, Any]] = {
    "another dtype": {"x": normal(TOKENS, HIDDEN).bfloat16()},
    "more experts a token": {"weights": torch.ones(TOKENS, 3), "ids": torch.tensor([[0, 1, 2]] * TOKENS)},
    "no tokens": {"x": normal(0, HIDDEN), "weights": torch.ones(0, TOPK), "ids": torch.ones(0, TOPK).int()},
    # vLLM: shared experts; SGLang: tokens that are quantized already.
    "something more": {"shared": torch.ones(1)},
}


@pytest.mark.parametrize("case", CALLS)
def test_calls_that_the_definition_lacks_are_left_to_the_engine(bench: Bench, case: str) -> None:
    assert bench.call(bench.method(), layer(), **CALLS[case]) is STOCK
    assert bench.declined == 1


LAYERS: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"w2_weight": fp8(EXPERTS, HIDDEN, INNER).view(torch.float8_e5m2)}, "float8_e5m2"),
    "packed scales": ({"w13_weight_scale_inv": torch.ones(EXPERTS, 2, 1, dtype=torch.int32)}, "int32"),
    "scales by other blocks": ({"w13_weight_scale_inv": scales(EXPERTS, 4, 4)}, "4, 4"),
    "other weights": ({"w2_weight": fp8(EXPERTS, INNER, HIDDEN)}, "shapes"),
    "transposed": ({"w2_weight": fp8(EXPERTS, INNER, HIDDEN).transpose(1, 2)}, "strides"),
    "blocks across gate and up": (
        {
            "w13_weight": fp8(EXPERTS, 2 * 100, HIDDEN),
            "w2_weight": fp8(EXPERTS, HIDDEN, 100),
            "w13_weight_scale_inv": scales(EXPERTS, 2, 2),
        },
        "no multiple of 128",
    ),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_that_a_definition_lacks_are_left_to_the_engine_and_said_once(bench: Bench, case: str) -> None:
    changed, said = LAYERS[case]
    of, method = layer(**changed), bench.method()
    for _ in range(3):
        assert bench.call(method, of) is STOCK
    assert bench.declined == 3
    (note,) = bench.runtime.notes
    assert said in note


VLLM: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "swapped": ({"backend": "FLASHINFER_CUTLASS"}, {}),
    "by tensors": ({"block_quant": False}, {}),
    "blocks of 32": ({"moe_block_shape": [32, 32]}, {}),
    "another activation": ({}, {"activation": "gelu"}),
    "an expert map": ({}, {"expert_map": torch.zeros(8)}),
    "in several processes": ({}, {"spread": True}),
    "a limit": ({}, {"swiglu_limit": 7.0}),
}
SGLANG: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "shuffled": ({"backend": "flashinfer_trtllm"}, {}),
    "by tensors": ({"block_quant": False}, {}),
    "CUTLASS": ({"ab_strides1": 0}, {}),
    "blocks of 32": ({"quant_config": SimpleNamespace(weight_block_size=[32, 32])}, {}),
    "another activation": ({"activation": "gelu"}, {}),
    "a factor": ({"routed_scaling_factor": 2.5}, {}),
    "in several processes": ({}, {"moe_ep_size": 2}),
}


@pytest.mark.parametrize(
    ("engine", "case"), [*(("vllm", case) for case in VLLM), *(("sglang", case) for case in SGLANG)]
)
def test_methods_that_compute_or_keep_something_else_are_left_alone(
    engine: str, case: str, make_runtime: Callable[..., Runtime], dataset: Path
) -> None:
    bench = Bench(engine, make_runtime, dataset)
    of_method, of_layer = (VLLM if engine == "vllm" else SGLANG)[case]
    assert bench.call(bench.method(**of_method), layer(**of_layer)) is STOCK
    assert bench.declined == 1


def test_probation_hands_the_engines_op_a_copy_of_the_tokens(bench: Bench) -> None:
    of, method = layer(), bench.method()
    bench.call(method, of)
    (site,) = bench.runtime.sites
    inputs = (bench.x, *(t.data for t in of.parameters()), bench.weights, bench.ids.int())
    assert bench.adapter.calls._layers[id(of)].tail[0].data_ptr() == inputs[1].data_ptr()
    prepared = site.original.prepare(*inputs)
    assert prepared[0].data_ptr() != bench.x.data_ptr()
    assert site.original.call(*prepared) is STOCK
    called_method, called_layer, *rest = bench.given[-1]
    assert (called_method, called_layer) == (method, of)
    assert (rest[0] if bench.engine == "vllm" else rest[0].hidden_states) is prepared[0]


def test_both_engines_meet_the_same_definition(make_runtime: Callable[..., Runtime], dataset: Path) -> None:
    for engine in ("vllm", "sglang"):
        bench = Bench(engine, make_runtime, dataset, apply=False, tracing=True)
        bench.call(bench.method(), layer())
        assert bench.runtime.snapshot()["calls"] == {definition().name: {f'{{"num_tokens":{TOKENS}}}': 1}}


def test_what_the_engine_kept_after_an_uninstall_calls_the_engine(bench: Bench) -> None:
    bench.adapter.live = False
    assert bench.call(bench.method(), layer()) is STOCK
