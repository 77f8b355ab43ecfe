"""Fp8 linear layers of both engines, as they hold them after loading: what a solution is given, what is declined."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.sglang.gemm_fp8 import GemmFp8 as SglangGemm
from fib_plugin.adapters.vllm.gemm_fp8 import GemmFp8 as VllmGemm
from proven import MARK

from fib_plugin import ops
from fib_plugin.adapter import Adapter
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

ROWS, N, K = 4, 200, 300
KINDS = ("block_scale", "rowwise", "static")
FP8 = torch.float8_e4m3fn


def definition(kind: str, **more: Any) -> Definition:
    """In float32, so that a mark leaves the rest of a result to be seen."""
    return ops.ALL[f"gemm_fp8_{kind}"].definition(n=N, k=K, dtype="float32", **more)


def fp8_weight(seed: int = 1) -> torch.Tensor:
    return (torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * 100).clamp(-448, 448).to(FP8)


def layer(kind: str, channels: bool = True, **changed: Any) -> torch.nn.Module:
    """What both engines make of a layer: [N, K] and scales by blocks, else the transposed view and scales by rows."""
    made = torch.nn.Module()
    blockwise = kind == "block_scale"
    fields: dict[str, Any] = {
        "weight": fp8_weight() if blockwise else fp8_weight().t(),
        "input_size_per_partition": K,
        "output_size_per_partition": N,
        "orig_dtype": torch.float32,
        "input_scale": torch.nn.Parameter(torch.tensor(0.01), requires_grad=False) if kind == "static" else None,
    }
    if blockwise:
        fields["weight_scale_inv"] = torch.rand(2, 3) * 1e-3 + 1e-4
    else:
        fields["weight_scale"] = torch.rand(N, 1) * 1e-3 if channels else torch.tensor(5e-4)
    for name, value in {**fields, **changed}.items():
        parameter = isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
        setattr(made, name, torch.nn.Parameter(value, requires_grad=False) if parameter else value)
    return made


def triton_w8a8_block_fp8_linear() -> None:
    """Stands for the engine's kernel of that name."""


def aiter_w8a8_block_fp8_linear() -> None:
    """Stands for a kernel that wants its weights shuffled."""


class TritonFp8BlockScaledMMKernel:
    """Stands for the engine's kernel of that name."""


class CutlassFP8ScaledMMLinearKernel:
    """Stands for the engine's kernel of that name."""


class MarlinFP8ScaledMMLinearKernel:
    """Stands for a kernel that packs its weights."""


def sglang_method(kind: str, **changed: Any) -> Any:
    fields = {
        "use_marlin": False,
        "use_mxfp8": False,
        "block_quant": kind == "block_scale",
        "quant_config": SimpleNamespace(weight_block_size=[128, 128] if kind == "block_scale" else None),
        "w8a8_block_fp8_linear": triton_w8a8_block_fp8_linear,
    }
    return SimpleNamespace(**{**fields, **changed})


def vllm_method(kind: str, per_token: bool = True, **changed: Any) -> Any:
    blockwise = kind == "block_scale"
    shape = SimpleNamespace(is_per_token=lambda: per_token)
    fields = {
        "fp8_linear": TritonFp8BlockScaledMMKernel() if blockwise else CutlassFP8ScaledMMLinearKernel(),
        "block_quant": blockwise,
        "weight_block_size": [128, 128] if blockwise else None,
        "act_q_static": kind == "static",
        "activation_quant_key": SimpleNamespace(scale=SimpleNamespace(group_shape=shape)),
        "out_dtype": torch.float32,
    }
    return SimpleNamespace(**{**fields, **changed})


ENGINES: dict[str, tuple[type[Adapter], Callable[..., Any]]] = {
    "sglang": (SglangGemm, sglang_method),
    "vllm": (VllmGemm, vllm_method),
}


class Bench:
    """One engine's adapter with a marked solution proven for every kind, and the calls that engine makes."""

    def __init__(self, engine: str, make_runtime: Callable[..., Runtime], dataset: Path, **runtime: Any) -> None:
        for kind in (*KINDS, "tensorwise"):
            made = proven.solution(definition(kind), f"fast__{kind}")
            proven.prove(dataset, definition(kind), made, sizes=(ROWS,))
        kind_of, self.method = ENGINES[engine]
        self.runtime = make_runtime(**runtime)
        self.adapter: Any = kind_of(self.runtime)
        self.stock = 0
        self.apply = self.adapter.apply(self._stock)

    def _stock(self, *args: Any) -> str:
        self.stock += 1
        return "stock"

    @property
    def declined(self) -> int:
        return self.runtime.declined[self.adapter.name]["unsupported_argument"]


@pytest.fixture(params=ENGINES)
def bench(
    request: pytest.FixtureRequest, make_runtime: Callable[..., Runtime], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    without_vllm(monkeypatch)
    return Bench(request.param, make_runtime, dataset)


def without_vllm(monkeypatch: pytest.MonkeyPatch, **switches: Any) -> None:
    """The one module that the adapter asks, without the engine around it."""
    import sys

    envs = SimpleNamespace(**{"VLLM_BATCH_INVARIANT": False, **switches})
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(envs=envs))
    monkeypatch.setitem(sys.modules, "vllm.envs", envs)


def activations(rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(rows))


def expected(kind: str, x: torch.Tensor, of: torch.nn.Module) -> torch.Tensor:
    """What the definition says, from the layer's tensors taken apart by hand."""
    scope: dict[str, Any] = {}
    exec(definition(kind).reference, scope)
    if kind == "block_scale":
        return scope["run"](x, of.weight, of.weight_scale_inv)  # type: ignore[no-any-return]
    rows = of.weight_scale.flatten() * torch.ones(N)  # type: ignore[operator,union-attr]
    given = (of.input_scale.reshape(1),) if kind == "static" else ()  # type: ignore[operator,union-attr]
    return scope["run"](x, *given, of.weight.t(), rows)  # type: ignore[no-any-return,operator,union-attr]


@pytest.mark.parametrize("channels", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_solution_multiplies_with_what_the_layer_holds(bench: Bench, kind: str, channels: bool) -> None:
    of, x = layer(kind, channels), activations()
    out = bench.apply(bench.method(kind), of, x, None)
    torch.testing.assert_close(out, expected(kind, x, of) + MARK)
    assert bench.stock == 0


def test_a_bias_is_added_to_what_a_solution_returns(bench: Bench) -> None:
    of, x, bias = layer("rowwise"), activations(), torch.full((N,), 1000.0)
    out = bench.apply(bench.method("rowwise"), of, x, bias)
    torch.testing.assert_close(out, expected("rowwise", x, of) + MARK + bias)


def test_further_axes_come_back(bench: Bench) -> None:
    of, x = layer("rowwise"), activations().reshape(2, 2, K)
    out = bench.apply(bench.method("rowwise"), of, x, None)
    assert out.shape == (2, 2, N)
    torch.testing.assert_close(out.reshape(ROWS, N), expected("rowwise", x.reshape(ROWS, K), of) + MARK)


def test_a_weight_that_is_loaded_again_is_the_one_that_is_used(bench: Bench) -> None:
    of, x, method = layer("block_scale"), activations(), bench.method("block_scale")
    bench.apply(method, of, x, None)
    of.weight.data.copy_(fp8_weight(2))  # type: ignore[union-attr,operator]
    of.weight_scale_inv.data.mul_(2)  # type: ignore[union-attr,operator]
    torch.testing.assert_close(bench.apply(method, of, x, None), expected("block_scale", x, of) + MARK)
    of.weight = torch.nn.Parameter(fp8_weight(3), requires_grad=False)
    torch.testing.assert_close(bench.apply(method, of, x, None), expected("block_scale", x, of) + MARK)
    of.weight.data = fp8_weight()
    torch.testing.assert_close(bench.apply(method, of, x, None), expected("block_scale", x, of) + MARK)
    assert bench.stock == 0


@pytest.mark.parametrize("x", [activations().bfloat16(), activations()[:, :-1], (activations().to(FP8), torch.ones(1))])
def test_inputs_of_another_kind_are_left_to_the_engine(bench: Bench, x: Any) -> None:
    assert bench.apply(bench.method("rowwise"), layer("rowwise"), x, None) == "stock"
    assert bench.declined == 1


LAYERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "given away": ("rowwise", {"weight": None}, "no weight"),
    "not there yet": ("rowwise", {"weight": fp8_weight().t().to("meta")}, "no weight"),
    "another format": ("block_scale", {"weight": fp8_weight().view(torch.float8_e5m2)}, "float8_e5m2"),
    "scales that are bytes": ("block_scale", {"weight_scale_inv": torch.ones(2, 3, dtype=torch.uint8)}, "uint8"),
    "scales by other blocks": ("block_scale", {"weight_scale_inv": torch.ones(7, 10)}, "7, 10"),
    "padded": ("rowwise", {"weight": torch.zeros(208, 304).to(FP8).t()}, "304, 208"),
    "not transposed": ("rowwise", {"weight": fp8_weight()}, "strides"),
    "transposed": ("block_scale", {"weight": fp8_weight().t().contiguous().t()}, "strides"),
    "scales of shards": ("rowwise", {"weight_scale": torch.ones(3)}, "3 scales"),
    "other activations": ("rowwise", {"orig_dtype": torch.float64}, "float64"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_that_a_definition_lacks_are_left_to_the_engine_and_said_once(bench: Bench, case: str) -> None:
    kind, changed, said = LAYERS[case]
    of = layer(kind, **changed)
    method = bench.method(kind, **({"out_dtype": of.orig_dtype} if "orig_dtype" in changed else {}))
    for _ in range(3):
        assert bench.apply(method, of, activations(), None) == "stock"
    assert bench.declined == 3
    (note,) = bench.runtime.notes
    assert said in note


METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sglang: Marlin": ("sglang", "rowwise", {"use_marlin": True}),
    "sglang: MXFP8": ("sglang", "block_scale", {"use_mxfp8": True}),
    "sglang: blocks of 32": ("sglang", "block_scale", {"quant_config": SimpleNamespace(weight_block_size=[32, 32])}),
    "sglang: shuffled": ("sglang", "block_scale", {"w8a8_block_fp8_linear": aiter_w8a8_block_fp8_linear}),
    "vllm: Marlin": ("vllm", "rowwise", {"fp8_linear": MarlinFP8ScaledMMLinearKernel()}),
    "vllm: blocks of 32": ("vllm", "block_scale", {"weight_block_size": [32, 32]}),
    "vllm: results in another dtype": ("vllm", "rowwise", {"out_dtype": torch.bfloat16}),
}


@pytest.mark.parametrize("case", METHODS)
def test_kernels_that_rework_weights_keep_their_layers(
    case: str, make_runtime: Callable[..., Runtime], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_vllm(monkeypatch)
    engine, kind, changed = METHODS[case]
    bench = Bench(engine, make_runtime, dataset)
    assert bench.apply(bench.method(kind, **changed), layer(kind), activations(), None) == "stock"
    assert bench.declined == 1


def test_vllm_keeps_results_the_same_in_every_batch_where_that_is_asked_for(
    make_runtime: Callable[..., Runtime], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_vllm(monkeypatch, VLLM_BATCH_INVARIANT=True)
    bench = Bench("vllm", make_runtime, dataset)
    assert bench.apply(bench.method("rowwise"), layer("rowwise"), activations(), None) == "stock"


def test_one_scale_for_all_activations_is_another_definition(
    make_runtime: Callable[..., Runtime], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_vllm(monkeypatch)
    bench = Bench("vllm", make_runtime, dataset)
    of, x = layer("rowwise", channels=False), activations()
    out = bench.apply(bench.method("rowwise", per_token=False), of, x, None)
    scope: dict[str, Any] = {}
    exec(definition("tensorwise").reference, scope)
    wanted = scope["run"](x, of.weight.t(), of.weight_scale.reshape(1)) + MARK  # type: ignore[operator,union-attr]
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("engine", ENGINES)
def test_scales_that_are_powers_of_two_are_another_definition(
    engine: str, make_runtime: Callable[..., Runtime], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_vllm(monkeypatch)
    bench = Bench(engine, make_runtime, dataset, tracing=True)
    kernel = TritonFp8BlockScaledMMKernel()
    kernel.use_deep_gemm_e8m0 = True  # type: ignore[attr-defined]
    rounds = functools.partial(triton_w8a8_block_fp8_linear, act_scale_ue8m0=True)
    changed = {"vllm": {"fp8_linear": kernel}, "sglang": {"w8a8_block_fp8_linear": rounds}}[engine]
    assert bench.apply(bench.method("block_scale", **changed), layer("block_scale"), activations(), None) == "stock"
    name = definition("block_scale", ue8m0=True).name
    assert bench.runtime.snapshot()["calls"] == {name: {f'{{"M":{ROWS}}}': 1}}


def test_both_engines_meet_the_same_definition(
    make_runtime: Callable[..., Runtime], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_vllm(monkeypatch)
    met = []
    for engine in ENGINES:
        bench = Bench(engine, make_runtime, dataset, apply=False, tracing=True)
        for kind in KINDS:
            bench.apply(bench.method(kind), layer(kind), activations(), None)
        met.append(bench.runtime.snapshot()["calls"])
    assert met[0] == met[1]
    assert len(met[0]) == len(KINDS)


def test_shapes_that_nothing_is_proven_for_are_not_counted(bench: Bench) -> None:
    of = layer("rowwise", weight=torch.zeros(N, 64).to(FP8).t(), input_size_per_partition=64)
    assert bench.apply(bench.method("rowwise"), of, activations()[:, :64], None) == "stock"
    assert bench.declined == 0
    assert bench.runtime.sites == []


def test_a_layer_of_an_unknown_make_is_the_engines(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fib_plugin"):
        for _ in range(2):
            assert bench.apply(object(), layer("rowwise"), activations(), None) == "stock"
    assert len(caplog.records) == 1
    assert bench.runtime.declined[bench.adapter.name] == {"internal_error": 2}


def test_what_the_engine_kept_after_an_uninstall_calls_the_engine(bench: Bench) -> None:
    bench.adapter.live = False
    assert bench.apply(bench.method("rowwise"), layer("rowwise"), activations(), None) == "stock"


def test_probation_runs_the_engines_op_on_the_layer_that_was_called(bench: Bench) -> None:
    of, x, method = layer("block_scale"), activations(), bench.method("block_scale")
    given: list[Any] = []
    bench.adapter._apply = lambda *args: given.append(args)
    bench.apply(method, of, x, None)
    (site,) = bench.runtime.sites
    site.original.call(x, of.weight.data, of.weight_scale_inv.data)
    assert given == [(method, of, x, None)]


def test_vllm_hands_a_compiler_an_op_only_for_layers_that_have_a_solution(
    make_runtime: Callable[..., Runtime], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_vllm(monkeypatch)
    bench = Bench("vllm", make_runtime, dataset)
    loaded = bench.adapter.loaded(lambda method, layer: None)
    have, lack = layer("rowwise"), layer("rowwise", weight_scale=torch.ones(3))
    for of in (have, lack):
        loaded(bench.method("rowwise"), of)
    assert (have.fib_fp8, lack.fib_fp8) == (True, False)
    method, x, bias = bench.method("rowwise"), activations(), torch.ones(N)
    graph = torch.compile(lambda of, x: bench.apply(method, of, x, bias), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(graph(have, x), expected("rowwise", x, have) + MARK + bias)
    assert bench.stock == 0
