"""The capture path under real load: serve, replay requests, SIGKILL, merge, curate, validate, run every reference."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from engines.conftest import HERE
from fib_plugin.bench.inputs import InputMaker
from fib_plugin.bench.reference import Reference
from fib_plugin.dataset import TraceSet, load_counts
from fib_plugin.dataset.layout import shard_of

pytestmark = pytest.mark.engine

TRACE = HERE.parents[1] / "scripts" / "data" / "azure_llm_2023_excerpt.csv"
LONGEST_PROMPT, LONGEST_OUTPUT = 160, 24
REQUESTS = 200
STARTS_WITHIN = 240.0
#: Curation keeps at most so many workloads of a definition.
KEPT = 12


@dataclass
class Load:
    """What a killed server left."""

    dataset: Path
    summary: dict[str, Any]
    survivors: list[int]
    log: str


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_health(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        assert server.poll() is None, log.read_text(errors="replace")[-4000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)


def _fib(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "fib_plugin", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def load(workspace: Path, checkpoint) -> Iterator[Load]:
    """200 real requests at a server with capture on, in pieces of different sampling; then SIGKILL to all of it."""
    dataset, log, port = workspace / "replay.dataset", workspace / "replay.log", _free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("FIB_", "VLLM_"))},
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CACHE_ROOT": str(workspace / "vllm_cache"),
        "FIB_ENABLE_TRACING": "1",
        "FIB_DATASET_PATH": str(dataset),
        "FIB_CACHE_PATH": str(workspace / "replay.cache"),
    }
    options = {
        "model": checkpoint("llama"),
        "served-model-name": "tiny",
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": 256,
        "max-num-seqs": 8,
        "max-num-batched-tokens": 256,
    }
    command = [sys.executable, HERE / "vllm_server.py", "--enforce-eager"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    family = [psutil.Process(server.pid)]
    try:
        _await_health(server, f"http://127.0.0.1:{port}", log)
        summary = _fib(
            "replay",
            TRACE,
            *("--url", f"http://127.0.0.1:{port}/v1", "--model", "tiny", "--vocab", 640),
            *("--requests", REQUESTS, "--rate", 200, "--scale-lengths", 1 / 12, "--timeout", 120),
            *("--max-prompt-tokens", LONGEST_PROMPT, "--max-output-tokens", LONGEST_OUTPUT),
            *("--body", '{"temperature": 0.8, "top_k": 50, "top_p": 0.95}'),
        )
        # A second is what a kill may cost.
        time.sleep(1.5)
        family += psutil.Process(server.pid).children(recursive=True)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    _, left = psutil.wait_procs(family, timeout=10)
    yield Load(dataset, summary, [process.pid for process in left], log.read_text(errors="replace"))
    for process in left:
        process.kill()


@pytest.fixture(scope="module")
def merged(load: Load) -> dict[str, Any]:
    """The killed server's shards folded into its dataset."""
    return _fib("dataset", "merge", "--into", load.dataset)


@pytest.fixture(scope="module")
def curated(load: Load, merged: dict[str, Any]) -> TraceSet:
    """The representative set of what was captured."""
    root = load.dataset.with_name("replay.curated")
    _fib("dataset", "curate", "--dataset", load.dataset, "--into", root, "--keep", KEPT)
    assert _fib("dataset", "validate", root)["problems"] == []
    return TraceSet.from_path(root)


def test_every_request_is_answered_at_the_length_of_the_trace(load: Load) -> None:
    assert load.summary["failures"] == {}
    assert load.summary["completed"] == REQUESTS
    assert load.summary["other_lengths"] == 0
    assert load.summary["ttft_ms"]["p50"] > 0
    assert load.summary["inter_token_ms"]["p50"] > 0


def test_sigkill_leaves_no_process(load: Load) -> None:
    assert load.survivors == []


def test_what_the_killed_server_captured_is_folded_and_valid(load: Load, merged: dict[str, Any]) -> None:
    assert merged["problems"] == []
    checked = _fib("dataset", "validate", load.dataset)
    assert checked["problems"] == []
    files = list(load.dataset.glob("workloads/**/*.jsonl"))
    assert files
    assert [file for file in files if shard_of(file) is not None] == []


def test_counts_tell_every_generated_token(load: Load, merged: dict[str, Any]) -> None:
    traces, counts = TraceSet.from_path(load.dataset), load_counts(load.dataset)
    sampled = [name for name in traces.definitions if name.startswith("top_k_top_p_sampling")]
    assert sampled
    rows = sum(
        calls * json.loads(axes)["batch_size"] for name in sampled for axes, calls in counts.get(name, {}).items()
    )
    assert rows >= load.summary["output_tokens"]


def test_every_reference_runs_on_every_kept_workload_and_agrees_with_itself_reloaded(
    load: Load, curated: TraceSet
) -> None:
    root = curated.root
    again = TraceSet.from_path(root)
    # Linear layers, norms, activation, rope, attention of both kinds, and the sampler that was asked for.
    assert len(curated.definitions) == 12, sorted(curated.definitions)
    captured = TraceSet.from_path(load.dataset).workloads
    assert max(map(len, captured.values())) > KEPT
    for name, definition in curated.definitions.items():
        workloads = curated.workloads[name]
        assert 1 <= len(workloads) <= KEPT, name
        reloaded = {trace.workload.uuid: trace.workload for trace in again.workloads[name]}
        for trace in workloads:
            first = _outputs(root, definition, trace.workload)
            second = _outputs(root, again.definitions[name], reloaded[trace.workload.uuid])
            for one, other in zip(first, second, strict=True):
                assert torch.equal(one, other), (name, trace.workload.axes)
                assert not one.is_floating_point() or bool(torch.isfinite(one).all()), (name, trace.workload.axes)


def _outputs(root: Path, definition: Any, workload: Any) -> list[torch.Tensor]:
    inputs = InputMaker(root, seed=11).make(definition, workload, seed=5)
    torch.manual_seed(3)  # samplers draw
    outputs = Reference(definition)(inputs)
    axes = {**workload.axes, **definition.const_axes}
    for value, spec in zip(outputs, definition.outputs.values(), strict=True):
        assert list(value.shape) == [axes[axis] for axis in spec.shape or ()], definition.name
    return outputs
