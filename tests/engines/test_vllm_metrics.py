"""/metrics of a real vLLM server shows what its engine's processes counted, whoever of them serves the page."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fib_plugin.board.serving import read_serving

# vLLM brings both.
psutil = pytest.importorskip("psutil")
parser = pytest.importorskip("prometheus_client.parser")

pytestmark = pytest.mark.engine

SERVER = Path(__file__).with_name("vllm_server.py")
#: With two API servers vLLM runs prometheus_client across processes, and they are siblings of the engine's core.
ONE, TWO = (), ("--api-server-count", "2")


class Server:
    """A running vLLM server: its pages, its completions and its status files."""

    def __init__(self, model: Path, port: int, process: subprocess.Popen[bytes], cache: Path, log: Path) -> None:
        self.model = model
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self.cache = cache
        self.log = log

    def get(self, path: str, body: dict[str, Any] | None = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(response.read().decode())

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-5000:]
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                self.get("/health")
                return
            time.sleep(0.5)
        pytest.fail(f"the server did not start: {self.log.read_text()[-5000:]}")

    def complete(self, prompt: str) -> None:
        asked = {"model": str(self.model), "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        answer = json.loads(self.get("/v1/completions", asked))
        assert answer["usage"]["completion_tokens"] == 8

    def scrape(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Samples of the page by name and by labels, sorted by the labels' names."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in parser.text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    def reported(self) -> Counter[tuple[str, str]]:
        """Calls by op and reason in the status files."""
        counts: Counter[tuple[str, str]] = Counter()
        for name, op in read_serving(self.cache / "status").ops.items():
            counts.update({(name, reason): calls for reason, calls in op.fallbacks.items()})
        return counts

    def settled(self) -> tuple[Counter[tuple[str, str]], dict[str, dict[tuple[str, ...], float]]]:
        """What the files and the page say once an idle server's counts are on disk."""
        before = None
        for _ in range(20):
            now = self.reported()
            if now and now == before:
                break
            before = now
            time.sleep(1.5)
        return self.reported(), self.scrape()


def by_op_and_reason(page: dict[str, dict[tuple[str, ...], float]]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for (_definition, op, outcome, reason), value in page["fib_calls_total"].items():
        if outcome == "fallback":
            counts[op, reason] += int(value)
    return counts


@pytest.fixture(scope="module", params=[ONE, TWO], ids=["one_api_server", "two_api_servers"])
def server(request: pytest.FixtureRequest, checkpoint: Any, workspace: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model, folder = checkpoint("llama"), workspace / f"metrics{len(request.param)}"
    folder.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("FIB_", "VLLM_", "PROMETHEUS_"))}
    environment = {
        **clean,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CACHE_ROOT": str(workspace / "vllm_cache"),
        "FIB_DATASET_PATH": str(folder / "dataset"),
        "FIB_CACHE_PATH": str(folder / "cache"),
        "FIB_ENABLE_TRACING": "1",
    }
    sizes = ["--dtype", "float32", "--max-model-len", "128", "--max-num-seqs", "4", "--max-num-batched-tokens", "128"]
    command = [sys.executable, SERVER, "--model", model, "--host", "127.0.0.1", "--port", str(port), *sizes]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--enforce-eager", *request.param],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        server = Server(model, port, process, folder / "cache", folder / "log")
        server.wait(240)
        for prompt in ("w5 w6 w7 w8", "w9 w10 w11", "w12 w13 w14 w15 w16"):
            server.complete(prompt)
        yield server
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills the server and whatever it started, also what left its process group."""
    family: list[Any] = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in family:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait(timeout=30)
    psutil.wait_procs(family, timeout=30)


def test_the_page_agrees_with_the_status_files_of_the_engine(server: Server) -> None:
    reported, page = server.settled()
    assert {op for op, _ in reported} >= {"vllm.gemm", "vllm.norm", "vllm.activation", "vllm.rope", "vllm.attention"}
    assert all(reported.values())
    assert by_op_and_reason(page) == reported


def test_each_call_is_counted_for_a_definition(server: Server) -> None:
    _, page = server.settled()
    definitions = {definition for definition, op, _, _ in page["fib_calls_total"] if op == "vllm.gemm"}
    assert {"gemm_fp32_n128_k128", "gemm_fp32_n640_k128"} <= definitions
    assert "" not in definitions


def test_the_engines_own_metrics_are_still_there(server: Server) -> None:
    assert sum(server.scrape()["vllm:generation_tokens_total"].values()) >= 24


def test_the_page_tells_version_switches_and_processes(server: Server) -> None:
    text = server.get("/metrics")
    (info,) = [line for line in text.splitlines() if line.startswith("fib_info")]
    assert 'apply="false"' in info
    assert 'tracing="true"' in info
    page = server.scrape()
    assert page["fib_processes"] == {(): 1}
    assert page["fib_quarantined"] == {(): 0}
    assert page["fib_capture_records_total"]["written", ""] > 0


def test_counts_grow_with_further_calls(server: Server) -> None:
    _, before = server.settled()
    server.complete("w20 w21 w22 w23 w24 w25")
    time.sleep(2)
    _, after = server.settled()
    grown = [after["fib_calls_total"][labels] > count for labels, count in before["fib_calls_total"].items() if count]
    assert grown
    assert all(grown)


def test_watch_follows_the_running_engine(server: Server) -> None:
    command = [sys.executable, "-m", "fib_plugin", "status", "--watch", "--json", "--cache", str(server.cache)]
    watch = subprocess.Popen(
        command, stdout=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    try:
        assert watch.stdout is not None
        first = json.loads(watch.stdout.readline())
        server.complete("w30 w31 w32")
        deadline = time.monotonic() + 30
        while (latest := json.loads(watch.stdout.readline()))["calls"] <= first["calls"]:
            assert time.monotonic() < deadline
        assert [process["state"] for process in latest["processes"]] == ["running"]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(timeout=20) == 0
    finally:
        watch.kill()
        watch.wait()
