"""An engine's own fp8 layers on a machine without a GPU: ``fp8_layers.py ENGINE OUT`` writes what they answered.

The classes are the engine's. Linear layers are loaded and called as it does; only what runs on a GPU alone has a
stand-in: the products, and the rounding of weights whose shards have different scales. Experts are called as it does;
their layer is put together here, as it is once loaded, and the kernel that it calls is a stand-in. The plugin is
activated by the environment, before the engine's module is imported, and taken out at the end.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

N, K, ROWS = 256, 384, 4
EXPERTS, TOPK, INNER = 4, 2, 128
FP8 = torch.float8_e4m3fn
SHARDS = [128, 128]


def rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x.float() / scale).clamp(-448, 448).to(FP8)


def row_scales(x: torch.Tensor) -> torch.Tensor:
    return x.float().abs().amax(-1, keepdim=True).clamp(min=1e-10) / 448


def block_product(x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    groups = x.float().view(x.shape[0], -1, 128)
    a = (rounded(groups, row_scales(groups)).float() * row_scales(groups)).flatten(1)
    full = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
    return (a @ (weight.float() * full).T).to(x.dtype)


def row_product(a: torch.Tensor, a_scale: torch.Tensor, b: torch.Tensor, b_scale: torch.Tensor) -> torch.Tensor:
    """``b`` [K, N], as both engines keep it."""
    return (a.float() @ b.float() * a_scale * b_scale.reshape(1, -1)).bfloat16()


def experts(x: torch.Tensor, w13: Any, s13: Any, w2: Any, s2: Any, weights: Any, ids: Any) -> torch.Tensor:
    out = torch.zeros(x.shape, dtype=torch.float32)
    for token, (each, chosen) in enumerate(zip(weights.float().tolist(), ids.tolist(), strict=True)):
        for weight, expert in zip(each, chosen, strict=True):
            gate, up = block_product(x[token : token + 1].float(), w13[expert], s13[expert]).chunk(2, dim=-1)
            act = torch.nn.functional.silu(gate) * up
            out[token] += weight * block_product(act, w2[expert], s2[expert])[0]
    return out.to(x.dtype)


def expert_layer() -> torch.nn.Module:
    made, layer = torch.Generator().manual_seed(2), torch.nn.Module()
    for name, rows, columns in (("w13", 2 * INNER, K), ("w2", K, INNER)):
        weight = (torch.randn(EXPERTS, rows, columns, generator=made) * 100).clamp(-448, 448).to(FP8)
        scales = torch.rand(EXPERTS, rows // 128, columns // 128, generator=made, dtype=torch.float32) + 0.5
        setattr(layer, f"{name}_weight", torch.nn.Parameter(weight, requires_grad=False))
        scales = scales / (100 * columns**0.5)
        setattr(layer, f"{name}_weight_scale_inv", torch.nn.Parameter(scales, requires_grad=False))
    return layer


def vllm_experts(fp8: Any) -> Any:
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend

    method, layer = object.__new__(fp8.Fp8MoEMethod), expert_layer()

    def kernel(x: Any, w13: Any, w2: Any, weights: Any, ids: Any, **_: Any) -> torch.Tensor:
        return experts(x, w13, layer.w13_weight_scale_inv, w2, layer.w2_weight_scale_inv, weights, ids)

    method.moe_kernel = SimpleNamespace(is_monolithic=False, apply=kernel)
    method.block_quant, method.fp8_backend = True, Fp8MoeBackend.TRITON
    method.weight_block_size = method.moe_block_shape = [128, 128]
    parallel = SimpleNamespace(use_all2all_kernels=False)
    config = SimpleNamespace(experts_per_token=TOPK, has_bias=False, moe_parallel_config=parallel)
    fields = {
        "activation": MoEActivation.SILU,
        "global_num_experts": EXPERTS,
        "expert_map": None,
        "apply_router_weight_on_input": False,
        "orig_dtype": torch.bfloat16,
        "moe_config": config,
    }
    for name, value in fields.items():
        setattr(layer, name, value)
    return lambda x, weights, ids: method.apply(layer, x, weights, ids, None, None)


def sglang_experts(fp8: Any) -> Any:
    from sglang.srt.layers.moe.moe_runner.base import MoeRunnerConfig
    from sglang.srt.layers.moe.token_dispatcher import StandardDispatchOutput
    from sglang.srt.layers.moe.topk import StandardTopKOutput
    from sglang.srt.layers.moe.utils import MoeRunnerBackend

    method, layer = object.__new__(fp8.Fp8MoEMethod), expert_layer()

    def kernel(given: Any, held: Any) -> Any:
        routed = given.topk_output
        weights = held.w13_weight, held.w13_scale, held.w2_weight, held.w2_scale
        out = experts(given.hidden_states, *weights, routed.topk_weights, routed.topk_ids)
        return SimpleNamespace(hidden_states=out)

    method.runner = SimpleNamespace(runner_backend=MoeRunnerBackend.TRITON, run=kernel)
    method.block_quant, method.is_fp4_expert, method.use_mxfp8 = True, False, False
    method.quant_config = SimpleNamespace(weight_block_size=[128, 128], use_mxfp8=False)
    method.weight_block_size = [128, 128]
    method.moe_runner_config = MoeRunnerConfig(top_k=TOPK, params_dtype=torch.bfloat16)
    layer.w13_input_scale = layer.w2_input_scale = None  # type: ignore[assignment]

    def call(x: Any, weights: Any, ids: Any) -> torch.Tensor:
        given = StandardDispatchOutput(x, None, StandardTopKOutput(weights, ids, None))
        return method.apply(layer, given).hidden_states  # type: ignore[no-any-return]

    return call


def fill(layer: torch.nn.Module) -> None:
    """What a checkpoint holds; the shards of a layer have different scales."""
    made = torch.Generator().manual_seed(1)
    weights = (torch.randn(N, K, generator=made) * 100).clamp(-448, 448).to(FP8)
    layer.weight.data.copy_(weights)  # type: ignore[operator,union-attr]
    for name in ("weight_scale", "weight_scale_inv"):
        if name in layer._parameters:
            scales = layer._parameters[name]
            assert scales is not None
            scales.data.copy_((torch.rand(scales.shape, generator=made) + 0.5) / (100 * K**0.5))


@contextmanager
def vllm_layers() -> Iterator[Any]:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.kernels.linear.scaled_mm.cutlass import CutlassFP8ScaledMMLinearKernel
    from vllm.model_executor.kernels.linear.scaled_mm.triton import TritonFp8BlockScaledMMKernel
    from vllm.model_executor.layers.quantization import fp8
    from vllm.model_executor.layers.quantization.utils import w8a8_utils
    from vllm.platforms import current_platform

    def apply_block_scaled_mm(self: Any, A: Any, B: Any, As: Any, Bs: Any) -> torch.Tensor:
        a = (A.float().view(A.shape[0], -1, 128) * As.unsqueeze(-1)).flatten(1)
        full = Bs.repeat_interleave(128, 0).repeat_interleave(128, 1)
        return (a @ (B.float() * full).T).bfloat16()

    def apply_scaled_mm(
        self: Any, *, A: Any, B: Any, As: Any, Bs: Any, bias: Any, output_shape: Any, **_: Any
    ) -> torch.Tensor:
        out = row_product(A, As, B, Bs.expand(B.shape[1])).view(*output_shape)
        return out if bias is None else out + bias

    here = {"is_supported": classmethod(lambda cls, capability=None: (True, None))}
    blockwise = type("TritonFp8BlockScaledMMKernel", (TritonFp8BlockScaledMMKernel,), here)
    rowwise = type("CutlassFP8ScaledMMLinearKernel", (CutlassFP8ScaledMMLinearKernel,), here)
    blockwise.apply_block_scaled_mm = apply_block_scaled_mm  # type: ignore[method-assign]
    rowwise.apply_scaled_mm = apply_scaled_mm  # type: ignore[method-assign]
    platform, config = current_platform._enum, VllmConfig()
    with (
        set_current_vllm_config(config),
        patch.object(fp8, "cutlass_fp8_supported", lambda: True),
        patch.object(w8a8_utils.ops, "scaled_fp8_quant", lambda x, scale: (rounded(x, scale), scale)),
        patch.dict(linear._POSSIBLE_FP8_KERNELS, {platform: [rowwise]}),
        patch.dict(linear._POSSIBLE_FP8_BLOCK_KERNELS, {platform: [blockwise]}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            init_distributed_environment(1, 0, f"file://{folder}/store", 0, "gloo")
            initialize_model_parallel(1, 1)
        config.model_config = SimpleNamespace(dtype=torch.bfloat16)
        yield fp8


@contextmanager
def sglang_layers() -> Iterator[Any]:
    from sglang.srt.layers.moe.utils import MoeRunnerBackend
    from sglang.srt.layers.quantization import fp8

    def triton_w8a8_block_fp8_linear(input: Any, weight: Any, weight_scale: Any, bias: Any, **_: Any) -> torch.Tensor:
        out = block_product(input, weight, weight_scale)
        return out if bias is None else out + bias

    def apply_fp8_linear(input: Any, weight: Any, weight_scale: Any, bias: Any, **_: Any) -> torch.Tensor:
        out = row_product(rounded(input, row_scales(input)), row_scales(input), weight, weight_scale)
        return out if bias is None else out + bias

    with (
        patch.object(fp8, "_is_cpu", False),
        patch.object(fp8, "get_moe_runner_backend", lambda: MoeRunnerBackend.TRITON),
        patch.object(fp8, "cutlass_fp8_supported", lambda: True),
        patch.object(fp8, "get_parallel", lambda: SimpleNamespace(tp_size=1)),
        patch.object(fp8, "requant_block_scale_ue8m0_for_deepgemm", lambda *args, **kwargs: None),
        patch.object(fp8, "dispatch_w8a8_block_fp8_linear", lambda: triton_w8a8_block_fp8_linear),
        patch.object(fp8, "apply_fp8_linear", apply_fp8_linear),
    ):
        yield fp8


LAYERS = {"vllm": (vllm_layers, vllm_experts), "sglang": (sglang_layers, sglang_experts)}


def main(engine: str, out: Path) -> None:
    from fib_plugin import plugin

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    plugin.register()
    found: dict[str, Any] = {}
    x, bias = torch.randn(ROWS, K), torch.randn(N)
    routing = torch.randn(ROWS, TOPK).float().softmax(-1), torch.tensor([[0, 1], [3, 2], [1, 3], [2, 0]]).int()
    layers, experts_of = LAYERS[engine]
    with layers() as fp8, torch.no_grad():
        made: dict[str, Any] = {}
        for kind, blocks in (("rowwise", None), ("block_scale", [128, 128])):
            method = fp8.Fp8LinearMethod(fp8.Fp8Config(True, "dynamic", weight_block_size=blocks))
            layer = torch.nn.Module()
            method.create_weights(layer, K, SHARDS, K, N, torch.bfloat16, weight_loader=lambda *args, **kwargs: None)
            fill(layer)
            method.process_weights_after_loading(layer)
            made[kind] = partial(method.apply, layer, x, bias)
        made["experts"] = partial(experts_of(fp8), x, *routing)
        calls = int(os.environ.get("FP8_LAYERS_CALLS", "1"))
        outputs = {kind: [run() for _ in range(calls)][-1] for kind, run in made.items()}
        active = plugin.active()
        found["status"] = None if active is None else active.runtime.snapshot()["status"]
        found["calls"] = None if active is None else active.runtime.snapshot()["calls"]
        plugin.deactivate()
        for kind, run in made.items():
            # A method that was looked up before the plugin was taken out calls the engine's all the same.
            stock = run()
            found[kind] = {
                "differs_by": (outputs[kind].float() - stock.float()).median().item(),
                "spread": (outputs[kind].float() - stock.float()).std().item(),
                "usual": stock.float().std().item(),
            }
        found["restored"] = [
            kind.apply.__module__ == fp8.__name__ for kind in (fp8.Fp8LinearMethod, fp8.Fp8MoEMethod)
        ] == [True, True]
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
