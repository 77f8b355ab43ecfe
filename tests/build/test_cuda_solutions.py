"""CUDA solutions on a real GPU: both bindings, both conventions, on the current stream, compiled once for all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from build_cases import DEFINITION, HIDDEN
from cuda_cases import SOURCES, make_cuda

from fib_plugin.build import BuildError, build, ready
from fib_plugin.build.toolchain import cuda_architecture, toolchain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

every_kind = pytest.mark.parametrize(("binding", "style"), SOURCES)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(5, HIDDEN, device="cuda"), torch.ones(HIDDEN, device="cuda")


@every_kind
def test_a_cuda_solution_runs_by_both_conventions(binding: str, style: str, shared_cache: Path) -> None:
    runnable = build(make_cuda(binding, style), DEFINITION, shared_cache)
    x, weight = inputs()
    y = torch.full_like(x, float("nan"))
    runnable.into(x, weight, y)
    result = runnable.call(x, weight)
    assert type(result) is torch.Tensor
    assert torch.equal(y, x + 1)
    assert torch.equal(result, x + 1)


@every_kind
def test_a_cuda_solution_runs_on_the_current_stream(binding: str, style: str, shared_cache: Path) -> None:
    runnable = build(make_cuda(binding, style), DEFINITION, shared_cache)
    x, weight = inputs()
    runnable.call(x, weight)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        x.fill_(41.0)
        result = runnable.call(x, weight)
    stream.synchronize()
    assert torch.equal(result, torch.full_like(x, 42.0))


@every_kind
def test_a_cuda_solution_can_be_captured_in_a_graph(binding: str, style: str, shared_cache: Path) -> None:
    runnable = build(make_cuda(binding, style), DEFINITION, shared_cache)
    x, weight = inputs()
    runnable.call(x, weight)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = runnable.call(x, weight)
    x.fill_(1.0)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(result, torch.full_like(x, 2.0))


@every_kind
def test_a_second_process_takes_the_library_from_the_cache(binding: str, style: str, shared_cache: Path) -> None:
    solution = make_cuda(binding, style)
    build(solution, DEFINITION, shared_cache)
    before = {path: path.stat().st_mtime_ns for path in (shared_cache / "build").glob("*/*.so")}
    code = (
        "import sys\nfrom pathlib import Path\nimport torch\nfrom build_cases import DEFINITION, HIDDEN\n"
        "from cuda_cases import make_cuda\nfrom fib_plugin.build import build, ready\n"
        "solution, cache = make_cuda(*sys.argv[1:3]), Path(sys.argv[3])\nassert ready(solution, cache)\n"
        "x = torch.randn(3, HIDDEN, device='cuda')\n"
        "y = build(solution, DEFINITION, cache).call(x, torch.ones(HIDDEN, device='cuda'))\n"
        "assert torch.equal(y, x + 1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", code, binding, style, str(shared_cache)], env=environment, check=True)
    assert {path: path.stat().st_mtime_ns for path in (shared_cache / "build").glob("*/*.so")} == before


def test_the_library_is_for_this_device() -> None:
    tools = toolchain(make_cuda("tvm-ffi", "into"))
    assert f"sm {cuda_architecture(*torch.cuda.get_device_capability())}" in tools.description.splitlines()


def test_a_cuda_compile_error_is_on_record(tmp_path: Path) -> None:
    solution = make_cuda("tvm-ffi", "into")
    (source,) = solution.sources
    broken = source.model_copy(update={"content": source.content.replace("from[i]", "form[i]")})
    solution = solution.model_copy(update={"sources": [broken]})
    assert not ready(solution, tmp_path)
    with pytest.raises(BuildError, match='identifier "form" is undefined'):
        build(solution, DEFINITION, tmp_path)
    assert ready(solution, tmp_path)
    with pytest.raises(BuildError, match="fib bench"):
        build(solution, DEFINITION, tmp_path)
