"""The shipped CUDA kernels: nvcc takes them on any host; on a GPU they agree with their references, chained too."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import solution_cases
import torch

from fib_plugin import ops
from fib_plugin.build import build
from fib_plugin.pack import Source, find_sources
from fib_plugin.schema import Language

SOURCES = {source.name: source for source in find_sources() if source.language is Language.CUDA}
CASES = [
    (source.name, family, constants)
    for source in SOURCES.values()
    for family in source.families
    for constants in solution_cases.CONSTANTS[family]
    if constants.get("dtype", "bfloat16") == "bfloat16"
]
#: N, K of Llama-3.1-8B's linear layers, and shapes whose rows start off 16 bytes or fill no tile.
SHAPES = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096), (1000, 264), (130, 4100), (7, 8)]

gpu = pytest.mark.gpu
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("source", SOURCES)
def test_it_is_meant_for_cuda_hosts_only(source: str) -> None:
    assert SOURCES[source].target_hardware == ("cuda",)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("source", SOURCES)
def test_it_compiles_for_hopper_without_a_gpu(source: str, tmp_path: Path) -> None:
    import tvm_ffi.libinfo

    for path, text in _packed(SOURCES[source]).items():
        (tmp_path / path).write_text(text)
    includes = [f"-I{path}" for path in (*tvm_ffi.libinfo.include_paths(), tmp_path)]
    command = ["nvcc", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-Xptxas=-v", *includes, "-c", "-o"]
    done = subprocess.run(
        [*command, str(tmp_path / "kernel.o"), str(tmp_path / "kernel.cu")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stderr.splitlines() if "spill stores" in line]
    assert said
    assert [line for line in said if " 0 bytes spill stores" not in line] == []


def _packed(source: Source) -> dict[str, str]:
    family = source.families[0]
    definition = ops.ALL[family].definition(**solution_cases.CONSTANTS[family][0])
    return {file.path: file.content for file in source.solution_for(definition, family).sources}


def built(source: str, family: str, cache: Path, **constants: Any) -> Callable[..., Any]:
    definition = ops.ALL[family].definition(**constants)
    return build(SOURCES[source].solution_for(definition, family), definition, cache).call


@gpu
@with_gpu
@pytest.mark.parametrize(("source", "family", "constants"), CASES)
def test_agrees_with_the_reference(source: str, family: str, constants: dict[str, Any], cache: Path) -> None:
    definition = ops.ALL[family].definition(**constants)
    solution = SOURCES[source].solution_for(definition, family)
    assert solution_cases.problem_of(solution, definition, cache, device="cuda") is None


@gpu
@with_gpu
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_a_product_of_any_shape_is_right_and_the_same_each_time(n: int, k: int, cache: Path) -> None:
    gemm = built("gemm_decode_cuda", "gemm", cache, n=n, k=k)
    weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * k**-0.5
    for m in (1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 64, 70):
        x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        want = x.float() @ weight.float().T
        got = gemm(x, weight)
        error = (got.float() - want).norm() / want.norm()
        assert error < 3e-3, (m, error)  # rounding the result alone costs 1.7e-3
        assert torch.equal(got, gemm(x, weight)), m


@gpu
@with_gpu
@pytest.mark.parametrize("rows", [1, 8, 16, 32])
def test_kernels_that_overlap_in_a_graph_never_read_too_early(rows: int, cache: Path) -> None:
    """Layers of products, norms and gates, each fed by the one before: a race would change the bits."""
    hidden, inner, layers = 4096, 14336, 4
    into = built("gemm_decode_cuda", "gemm", cache, n=2 * inner, k=hidden)
    back = built("gemm_decode_cuda", "gemm", cache, n=hidden, k=inner)
    norm = built("rmsnorm_cuda", "fused_add_rmsnorm", cache, hidden_size=hidden, eps=1e-5)
    gate = built("silu_and_mul_cuda", "silu_and_mul", cache, d=inner)

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16) * scale

    wide = [random(2 * inner, hidden, scale=hidden**-0.5) for _ in range(layers)]
    narrow = [random(hidden, inner, scale=inner**-0.5) for _ in range(layers)]
    scale, start, nothing = random(hidden), random(rows, hidden), torch.zeros(rows, hidden).to(random(1))

    def run(after_each: Callable[[], None]) -> list[torch.Tensor]:
        x, residual = start, nothing
        for first, second in zip(wide, narrow, strict=True):
            for step in ("norm", "into", "gate", "back"):
                if step == "norm":
                    x, residual = norm(x, residual, scale)
                else:
                    x = into(x, first) if step == "into" else gate(x) if step == "gate" else back(x, second)
                after_each()
        return [x, residual]

    want = run(torch.cuda.synchronize)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run(lambda: None)
    for _ in range(50):
        for tensor in got:
            tensor.fill_(float("nan"))
        graph.replay()
        for tensor, expected in zip(got, want, strict=True):
            assert torch.equal(tensor, expected)
