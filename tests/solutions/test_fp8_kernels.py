"""The shipped fp8 kernels for GPUs: Triton takes them for Hopper on any host; on a GPU they agree with the references.

Triton's interpreter cannot round to fp8 (see the kernels' WIDEN), so tests/solutions/test_kernels.py runs all but that
one cast; what is compiled here has it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import solution_cases
import torch

from fib_plugin import ops
from fib_plugin.pack import find_sources

SOURCES = {source.name: source for source in find_sources() if "fp8" in source.name}
CASES = [
    (source.name, family, index)
    for source in SOURCES.values()
    for family in source.families
    for index, _ in enumerate(solution_cases.CONSTANTS[family])
]
#: Pointers by the name of a kernel's argument; what is no pointer is a size or a step.
POINTERS = {
    **dict.fromkeys(("a_ptr", "c_ptr"), "*bf16"),
    "b_ptr": "*fp8e4nv",
    **dict.fromkeys(("scale_ptr", "a_scale_ptr", "b_scale_ptr"), "*fp32"),
}


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for other in SOURCES[name].sources:
        monkeypatch.syspath_prepend(str((SOURCES[name].file.parent / other).parent))
        monkeypatch.delitem(sys.modules, Path(other).stem, raising=False)
    file = SOURCES[name].file.with_name(SOURCES[name].entry_point.split("::")[0])
    spec = importlib.util.spec_from_file_location(f"shipped_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def compiled(kernel: Any, pointers: dict[str, str], options: dict[str, int], **constants: Any) -> str:
    """The PTX for Hopper."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: pointers.get(name, "i32") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    ptx: str = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    return ptx


@pytest.mark.parametrize("rows", [1, 64, 300])
@pytest.mark.parametrize("kernel", ["_block_scaled", "_scaled"])
def test_triton_compiles_the_product_for_hopper_without_a_gpu(
    kernel: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = module("gemm_fp8_triton", monkeypatch)
    tiles = loaded._tiles(rows)
    options = {name: tiles.pop(name) for name in ("num_warps", "num_stages")}
    more = {"UE8M0": 1} if kernel == "_block_scaled" else {}
    ptx = compiled(getattr(loaded, kernel), POINTERS, options, BLOCK_K=128, GROUP=8, WIDEN=False, **tiles, **more)
    assert "cvt.rn.satfinite.e4m3x2" in ptx, "A is not rounded to fp8 by the hardware"
    # Hopper multiplies fp8 in tiles of 64 rows; of fewer, Triton multiplies the same numbers in fp16.
    assert ("e4m3.e4m3" in ptx) is (rows >= 64)


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("kernel", ["_gate_up", "_down"])
def test_triton_compiles_experts_for_hopper_without_a_gpu(
    kernel: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = module("moe_fp8_triton", monkeypatch)
    pointers = {
        **dict.fromkeys(("x_ptr", "act_ptr"), "*bf16"),
        "w_ptr": "*fp8e4nv",
        **dict.fromkeys(("scale_ptr", "weight_ptr", "part_ptr"), "*fp32"),
        **dict.fromkeys(("order_ptr", "expert_ptr", "start_ptr", "end_ptr"), "*i32"),
    }
    sizes = {"BLOCK_M": rows, "BLOCK_N": 64, "BLOCK_K": 128, "UE8M0": 1, "WIDEN": False}
    ptx = compiled(getattr(loaded, kernel), pointers, {"num_warps": 4, "num_stages": 3}, **sizes)
    assert "cvt.rn.satfinite.e4m3x2" in ptx, "activations are not rounded to fp8 by the hardware"
    assert ("e4m3.e4m3" in ptx) is (rows >= 64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("source", "family", "index"), CASES)
def test_it_agrees_with_its_reference_on_a_gpu(source: str, family: str, index: int, tmp_path: Path) -> None:
    definition = ops.ALL[family].definition(**solution_cases.CONSTANTS[family][index])
    solution = SOURCES[source].solution_for(definition, family)
    assert solution_cases.problem_of(solution, definition, tmp_path, device="cuda") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", SOURCES["gemm_fp8_torch"].families)
def test_torchs_own_scaled_product_agrees_on_a_gpu(family: str, tmp_path: Path) -> None:
    """Sizes that it takes: multiples of 16."""
    definition = ops.ALL[family].definition(n=256, k=512)
    solution = SOURCES["gemm_fp8_torch"].solution_for(definition, family)
    assert solution_cases.problem_of(solution, definition, tmp_path, device="cuda") is None
