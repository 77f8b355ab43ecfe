"""What capture costs: a call that is known, a call that is new, the disk, and a real engine's throughput.

    python scripts/bench_capture.py [--blocks N] [--turns N] [--starts N] [--no-engine] [--seconds S] [--work DIR]

The last line of output is one JSON object:

    seen_ns           added to a call of a known size at its site: the lookup and the count (seen_*_ns: with what an
                      adapter's part takes to find the site of the weight or of the heads)
    new_us            median of a call of a new size; the worse of decode attention with realistic index lists and gemm
                      (new_attention_from_table_us: where the writer makes such lists of a block table, as for vLLM's
                      CPU backend)
    blocks            seen_ns and new_us of each block of measurements; the quietest block stands above
    syncs             times that recording new calls with CUDA tensors asked for a synchronisation; null without a GPU
    records_per_s     that reach the disk, with 4 KiB of structural inputs each
    mib_per_s         that reach the disk, with 1 MiB of structural inputs each
    throughput_ratio  of a vLLM engine with capture at work to the same engine with capture at rest, step by step in
                      turn, less what the writer's thread and hooks at rest take (see bench_capture_steps.py), for a
                      model whose ops take as long as ops do: layers as those of models of one billion parameters
                      (2048 wide), float32, one thread, eight requests
    small_ratio       the same with layers as those of the smallest models that are served (1024 wide): a call costs the
                      same, about 10 us where weights push all else out of the caches, and the layers are five times
                      faster
    toy_ratio         the same for the tests' model of 2 layers of 128, whose ops take microseconds: Python around them
                      is most of its step, and ours adds to that. Nobody serves such a model
    in_process        all in full: the interval of the ratio by the wall, and by the time of the engine's thread alone,
                      which other work on the machine hardly changes, but which knows nothing of waiting
    two_processes     with --starts: of two engines that serve in turn, one with capture; they differ by some percent
                      whatever they run
    machine           processors, and how many of them other processes kept busy meanwhile, on average

A machine that does other work makes all of them worse, by what it leaves in the caches as much as by the time it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "demo")]

#: A step of decode attention: requests and tokens of each, near the mean of the Azure conversation trace.
REQUESTS, TOKENS = 32, 1200
BLOCK = 128
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
GEMM_N, GEMM_K = 4096, 4096
#: New calls that are timed; between them the thread computes this many seconds.
NEW = 100
_PAUSE = 0.005
Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=6, help="measurements of seen and new calls (default 6)")
    parser.add_argument("--turns", type=int, default=12, help="rounds with hooks at rest and at work (default 12)")
    parser.add_argument("--starts", type=int, default=0, help="times that two engines are started (default 0)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each engine and start (default 5)")
    parser.add_argument("--requests", type=int, default=24, help="requests a round (default 24)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each rate to disk (default 3)")
    parser.add_argument("--no-engine", action="store_true", help="leave the engine out: throughput_ratio is null")
    parser.add_argument("--work", type=Path, help="folder of models, engine caches and logs; default a temporary one")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("FIB_")]:
        del os.environ[name]
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ |= {
            "FIB_CACHE_PATH": str(root / "cache"),
            "FIB_DATASET_PATH": str(root / "dataset"),
            "FIB_LOCK_PATH": str(root / "fib.lock"),
        }
        machine = Machine()
        result = {**calls(root, options.blocks), **on_gpu(root), **to_disk(root, options.seconds)}
        result["machine"] = {"calls": machine.told()}
        result["throughput_ratio"] = None
        if not options.no_engine:
            work = options.work or root / "work"
            work.mkdir(parents=True, exist_ok=True)
            from bench_capture_engine import in_turns, throughput

            machine = Machine()
            turns = result["in_process"] = in_turns(work, options.turns)
            result["machine"]["engine"] = machine.told()
            result["throughput_ratio"] = turns["realistic"]["throughput_ratio"]
            result["small_ratio"] = turns["small"]["throughput_ratio"]
            result["toy_ratio"] = turns["toy"]["throughput_ratio"]
            if options.starts:
                result["two_processes"] = throughput(work, options.requests, options.rounds, options.starts)
    print(json.dumps(result))


class Machine:
    """What other processes do from here on."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: by the wall, of all processors at work, of this process and the children that it waited for."""
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and iowait
        return time.perf_counter(), busy, sum(os.times()[:4])

    def told(self) -> dict[str, float]:
        wall, busy, own = (now - began for now, began in zip(self._now(), self._began, strict=True))
        return {"processors": os.cpu_count() or 0, "busy_elsewhere": round(max(0.0, busy - own) / wall, 2)}


def calls(root: Path, blocks: int) -> dict[str, Any]:
    """Seen and new calls, each as in its quietest block: what disturbs a block only ever adds to it."""
    seens, news = [], []
    for block in range(blocks):
        folder = root / str(block)
        seens.append(seen(folder))
        news.append(new(folder, "cpu"))
    every = {
        "seen_ns": [one["seen_ns"] for one in seens],
        "new_us": [one["new_us"] for one in news],
    }
    return {
        **min(seens, key=lambda one: one["seen_ns"]),
        **min(news, key=lambda one: one["new_us"]),
        "blocks": every,
    }


@contextlib.contextmanager
def runtime_of(folder: Path) -> Iterator[Any]:
    """A process's state with tracing on and vLLM's adapters known, so that displaced ops are written down, too."""
    from fib_plugin.adapters.vllm.attention import CpuAttention
    from fib_plugin.adapters.vllm.gemm import Gemm

    from fib_plugin import settings
    from fib_plugin.runtime import Runtime

    # What is caught while serving is to be seen here.
    wanted: dict[str, Any] = {"dataset_path": folder / "dataset", "cache_path": folder / "cache", "strict": True}
    runtime = Runtime(settings.load().model_copy(update=wanted), apply=False, tracing=True)
    for adapter in (CpuAttention, Gemm):
        runtime.adapters[adapter.name] = adapter(runtime)
    try:
        yield runtime
    finally:
        runtime.close()


class Attention:
    """Decode attention calls as an adapter makes them, on tensors of ``device``.

    Args:
        lists: whether the engine passes page lists, as FlashInfer's wrappers do; if not, the writer makes them of a
            block table for the calls that are written down, as for vLLM's CPU backend.
    """

    def __init__(self, runtime: Any, device: str, lists: bool = True) -> None:
        import torch
        from fib_plugin.adapters.live.attention import LiveAttention

        self._device = device
        self._lists = lists
        self.calls = LiveAttention(runtime, "vllm.attention")
        slots = REQUESTS * (TOKENS + NEW + BLOCK)
        self.q = torch.zeros(REQUESTS, HEADS, HEAD_DIM, device=device)
        # Only the pool's shape plays a part.
        self.pool = self.q.new_empty(1).expand(slots, 1, KV_HEADS, HEAD_DIM)

    def call(self, number: int) -> Call:
        """A call whose requests hold ``TOKENS + number`` tokens: a key of its own, where the number is one."""
        calls, q, pool = self.calls, self.q, self.pool
        step, make = self._step(number), calls.inputs if self._lists else calls.shown

        def attend() -> None:
            site = calls.site(step, q, KV_HEADS)
            site.attempt_made((q.shape[0], step.length_class), make, step, q, pool, pool, 0.1)

        return attend

    def _step(self, number: int) -> Any:
        import torch
        from fib_plugin.adapters.live.attention import Step, table_step

        tokens = TOKENS + number
        if self._lists:
            indptr = torch.arange(0, (REQUESTS + 1) * tokens, tokens, dtype=torch.int32, device=self._device)
            indices = torch.arange(REQUESTS * tokens, dtype=torch.int32, device=self._device)
            return Step(None, number, lambda: (indptr, indices))
        blocks = -(-tokens // BLOCK)
        table = torch.arange(REQUESTS * blocks, dtype=torch.int32).view(REQUESTS, blocks)
        lengths = torch.full((REQUESTS,), tokens, dtype=torch.int32)
        step = table_step(None, table, lengths, BLOCK)
        step.length_class = number
        return step


def seen(root: Path) -> dict[str, Any]:
    """Nanoseconds that a call of a known size takes more than one without the plugin."""
    import torch
    from bench_dispatch import interleaved
    from fib_plugin.adapters.live.gemm import LiveGemm
    from fib_plugin.adapters.live.norm import LiveNorm

    x, weight, row = torch.zeros(4, 64), torch.zeros(64, 64), torch.ones(64)
    with runtime_of(root / "seen") as runtime:
        gemm, norm = LiveGemm(runtime, "vllm.gemm"), LiveNorm(runtime, "bench.norm")
        attend = Attention(runtime, "cpu").call(0)
        gemm.attempt(x, weight), norm.rmsnorm(x, row, 1e-6), attend()
        site = runtime.sites[0]
        calls: dict[str, Call] = {
            "nothing": lambda: None,
            "": lambda: site.attempt(x.shape[0], (x, weight)),
            "gemm": lambda: gemm.attempt(x, weight),
            "norm": lambda: norm.rmsnorm(x, row, 1e-6),
            "attention": attend,
        }
        before = sum(entry.calls for each in runtime.sites for entry in each.all_entries())
        took = interleaved(calls, 21)
        counted = sum(entry.calls for each in runtime.sites for entry in each.all_entries()) - before
        assert counted > 1000, "no call was counted"
        assert runtime.writer.stats["written"] + runtime.writer.stats["queued"] <= 3, "a known call was recorded"
    nothing = took.pop("nothing")
    return {f"seen_{name}_ns".replace("__", "_"): round(value - nothing, 1) for name, value in took.items()}


def new(root: Path, device: str) -> dict[str, Any]:
    """Median microseconds of a call of a new size: it is learnt, snapshotted and handed to the writer."""
    import torch
    from fib_plugin.adapters.live.gemm import LiveGemm

    found: dict[str, Any] = {}
    with runtime_of(root / f"new_{device}") as runtime:
        gemm = LiveGemm(runtime, "vllm.gemm")
        weight = torch.empty(1, device=device).expand(GEMM_N, GEMM_K)
        rows = torch.empty(1, device=device).expand(NEW + 2, GEMM_K)

        def linear(number: int) -> Call:
            x = rows[: number + 1]
            return lambda: gemm.attempt(x, weight)

        found |= _news("gemm", linear)
        found |= _news("attention", Attention(runtime, device).call)
        _kept(runtime, 2 * (NEW + 1))
    if device == "cpu":
        with runtime_of(root / "new_tables") as runtime:
            found |= _news("attention_from_table", Attention(runtime, device, lists=False).call)
            _kept(runtime, NEW + 1)
    size = 4 * (REQUESTS * TOKENS + REQUESTS + 1)
    return {
        "new_us": max(found["new_attention_us"], found["new_gemm_us"]),
        **found,
        "new_attention_kib": round(size / 1024),
    }


def _news(name: str, make: Callable[[int], Call]) -> dict[str, float]:
    make(0)()  # the site is found, the definition made
    # A second has passed since the process began to record, as in an engine that warms up.
    time.sleep(1.2)
    times = [_timed(make(number)) for number in range(1, NEW + 1)]
    return {
        f"new_{name}_us": round(statistics.median(times) * 1e6, 1),
        f"new_{name}_p99_us": round(statistics.quantiles(times, n=100)[98] * 1e6, 1),
    }


def _kept(runtime: Any, calls: int) -> None:
    assert runtime.writer.flush(120), "the disk did not take the records within two minutes"
    stats = runtime.writer.stats
    kept = stats["written"] + stats["duplicates"]
    assert kept == calls, f"{kept} of {calls} new calls were kept: {stats}"


def _timed(call: Call) -> float:
    """Seconds of ``call`` in a thread that computes before it, as an engine's does: the writer gets its turns, too."""
    import torch

    matrix = torch.zeros(64, 64)
    pause = time.perf_counter() + _PAUSE
    while time.perf_counter() < pause:
        torch.mm(matrix, matrix)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def on_gpu(root: Path) -> dict[str, Any]:
    """Synchronisations asked for, and microseconds of new calls, with CUDA tensors."""
    import torch

    if not torch.cuda.is_available():
        return {"syncs": None}
    syncs = 0
    with runtime_of(root / "syncs") as runtime:
        attention = Attention(runtime, "cuda")
        attention.call(0)()
        calls = [attention.call(number) for number in range(1, NEW + 1)]
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for call in calls:
                try:
                    _timed(call)
                except RuntimeError as error:
                    syncs += 1
                    print(f"a synchronisation: {error}", file=sys.stderr)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if not syncs:
            _kept(runtime, NEW + 1)
    gpu = {f"gpu_{name}": value for name, value in new(root, "cuda").items() if name.endswith("_us")}
    return {"syncs": syncs, **gpu, "gpu": torch.cuda.get_device_name()}


def to_disk(root: Path, seconds: float) -> dict[str, Any]:
    from bench_writer import rate

    return {
        "records_per_s": round(rate(root / "records", 4 << 10, seconds)[0], 1),
        "mib_per_s": round(rate(root / "bytes", 1 << 20, seconds)[1], 2),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
