"""Tracing a compiled vLLM: the ops are seen in the graph, and the graph is what it is without us."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from fib_plugin.dataset import TraceSet

pytestmark = pytest.mark.engine

SEEN = {"rmsnorm_done", "fused_add_rmsnorm_rows", "silu_and_mul_seen", "rope_tokens"}


@pytest.fixture(scope="module")
def compiled(drive, workspace):
    """Outcome and generated code of a compiled engine, stock and with tracing on."""

    def start(name: str, **env: str):
        cache = workspace / f"{name}.vllm"
        steps = [{"generate": "greedy"}, {"status": "status"}]
        outcome = drive(name, "llama", steps, eager=False, VLLM_CACHE_ROOT=str(cache), **env)
        assert "greedy" in outcome.results, outcome.log
        return outcome, code(cache)

    return {
        "stock": start("graph_stock"),
        "tracing": start("graph_tracing", FIB_ENABLE_TRACING="1"),
        "values": start("graph_values", FIB_ENABLE_TRACING="1", FIB_CAPTURE_CONFIG=str(dump_all(workspace))),
    }


def dump_all(workspace: Path) -> Path:
    path = workspace / "dump_all.yaml"
    path.write_text("default: {dump: all}\n")
    return path


def code(cache: Path) -> str:
    """What Inductor generated for the model's graph."""
    files = [path.read_text() for path in cache.rglob("*.py")]
    return "\n".join(text for text in files if "unified_attention_with_output" in text and "cpp_fused" in text)


def kernels(text: str) -> int:
    """Calls of kernels that the compiler wrote: each copy or split of one is one more."""
    return len(re.findall(r"^ +cpp_fused\w+\(", text, re.MULTILINE))


def observers(text: str) -> Counter[str]:
    return Counter(re.findall(r"torch\.ops\.fib\.(\w+)\.default\(", text)) - Counter({"gemm": 10**6})


def test_the_compiler_writes_as_many_kernels_as_without_tracing(compiled) -> None:
    assert kernels(compiled["stock"][1]) > 3
    assert kernels(compiled["tracing"][1]) == kernels(compiled["stock"][1])


def test_every_op_that_the_compiler_fuses_is_seen(compiled) -> None:
    assert set(observers(compiled["tracing"][1])) == SEEN
    assert not observers(compiled["stock"][1])


def test_tokens_are_those_of_the_stock_engine(compiled) -> None:
    assert compiled["tracing"][0].results["greedy"] == compiled["stock"][0].results["greedy"]
    assert compiled["values"][0].results["greedy"] == compiled["stock"][0].results["greedy"]


def test_compiled_calls_are_counted_as_eager_ones_are(compiled, captured_llama) -> None:
    """The eager run made more requests; the names of what it met are the same."""
    eager = {name for name, line in captured_llama.results["status"]["ops"].items() if line["calls"]}
    found = {name for name, line in compiled["tracing"][0].results["status"]["ops"].items() if line["calls"]}
    assert found >= eager - {"vllm.sampling"}


def test_a_config_that_asks_for_values_gets_those_of_fused_ops_too(compiled) -> None:
    traces = TraceSet.from_path(compiled["values"][0].dataset)
    for name in ("rmsnorm_fp32_eps1e-06_h128", "fused_add_rmsnorm_fp32_eps1e-06_h128"):
        activation = next(iter(traces.definitions[name].inputs))
        lines = traces.workloads[name]
        assert lines
        assert all(line.workload.inputs[activation].type == "safetensors" for line in lines), name
