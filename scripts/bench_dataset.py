"""What it costs an engine process to know a dataset: cold, warm and in memory, side by side with flashinfer-bench.

    python scripts/bench_dataset.py [--rounds 3] [--flashinfer-bench FOLDER] [--definitions 1000 ...]

Makes a dataset, then loads it in fresh processes, the loaders in turn; medians over the rounds. Imports are not
counted, and all loaders find the files in memory, since they were just written. The last line is one JSON object:

    cold_s, warm_ms            Catalog.open without and with its cache
    rss_mib, cold_rss_mib      what the process grew by, warm and cold
    trace_set_cold_s           our TraceSet.from_path: every workload and trace validated too, which no engine needs
    flashinfer_bench_cold_s    TraceSet.from_path of flashinfer-bench on the same folder; null when it is not there
    ratio                      flashinfer_bench_cold_s / cold_s, each round for itself
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

_THEIRS = "flashinfer_bench"
_PAGE = os.sysconf("SC_PAGE_SIZE")


def measured(load: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """Seconds of one load and the MiB by which the process grew, and what was loaded."""
    gc.collect()
    before = resident()
    start = time.perf_counter()
    loaded = load()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mib": (resident() - before) / 2**20}, loaded


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def catalog(root: Path, cache: Path) -> dict[str, Any]:
    """An engine's view, as cold or warm as the cache is."""
    from fib_plugin.dataset import current_environment
    from fib_plugin.dispatch.catalog import Catalog

    environment = current_environment()
    result, loaded = measured(lambda: Catalog.open(root, cache, environment))
    if loaded.problems:
        raise SystemExit(f"the dataset was not read well: {loaded.problems[:3]}")
    return {**result, "anew": loaded.read_anew, "definitions": len(loaded.names()), "says": loaded.explain()}


def trace_set(root: Path) -> dict[str, Any]:
    """Our full load."""
    from fib_plugin.dataset import TraceSet

    result, loaded = measured(lambda: TraceSet.from_path(root))
    return {**result, "definitions": len(loaded.definitions), "traces": sum(map(len, loaded.traces.values()))}


def flashinfer_bench(root: Path, folder: Path) -> dict[str, Any]:
    """Their full load. Only their data models are imported: the package itself wants a GPU's libraries."""
    package = types.ModuleType(_THEIRS)
    package.__path__ = [str(folder)]
    sys.modules[_THEIRS] = package
    theirs = importlib.import_module(f"{_THEIRS}.data.trace_set")
    result, loaded = measured(lambda: theirs.TraceSet.from_path(str(root)))
    return {**result, "definitions": len(loaded.definitions), "traces": sum(map(len, loaded.traces.values()))}


def find_theirs(given: Path | None) -> Path | None:
    """The folder of the flashinfer_bench package: installed, or below the given folder (an unpacked wheel)."""
    if given is not None:
        if not (given / _THEIRS / "data").is_dir():
            raise SystemExit(
                f"--flashinfer-bench {given}: holds no {_THEIRS}/data; name the folder of an unpacked wheel"
            )
        return given / _THEIRS
    spec = importlib.util.find_spec(_THEIRS)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def in_a_fresh_process(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--load", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments[0]} failed:\n{done.stderr}")
    loaded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return loaded


def rounds(root: Path, cache: Path, theirs: Path | None, count: int) -> dict[str, list[dict[str, Any]]]:
    """Every loader once a round, one after the other."""
    found: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": [], "trace_set": [], _THEIRS: []}
    for number in range(count):
        shutil.rmtree(cache, ignore_errors=True)
        for name in ("cold", "warm"):
            found[name].append(in_a_fresh_process("catalog", root, cache))
        if theirs is not None:
            found[_THEIRS].append(in_a_fresh_process(_THEIRS, root, theirs))
        found["trace_set"].append(in_a_fresh_process("trace_set", root))
        told = ", ".join(f"{name} {runs[-1]['seconds']:.3f} s" for name, runs in found.items() if runs)
        print(f"round {number + 1} of {count}: {told}", flush=True)
    return found


def check(found: dict[str, list[dict[str, Any]]], definitions: int, traces: int) -> None:
    """That every loader loaded all of it, and that the cache says what was read."""
    cold, warm = found["cold"], found["warm"]
    if not all(run["anew"] for run in cold) or any(run["anew"] for run in warm):
        raise SystemExit("a cold load came from the cache, or a warm one did not")
    if any(run["says"] != cold[0]["says"] for run in cold + warm):
        raise SystemExit("the cache says other things than what was read")
    if any(run["definitions"] != definitions for runs in found.values() for run in runs):
        raise SystemExit("a loader did not find all definitions")
    if any(run["traces"] != traces for run in found["trace_set"] + found[_THEIRS]):
        raise SystemExit("a loader did not find all traces")


def middle(runs: list[dict[str, Any]], key: str, digits: int) -> float | None:
    return round(statistics.median(run[key] for run in runs), digits) if runs else None


def main() -> None:
    from made_dataset import Size, make

    usual = Size()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--definitions", type=int, default=usual.definitions)
    parser.add_argument("--solutions", type=int, default=usual.solutions, help="in all")
    parser.add_argument("--traces", type=int, default=usual.traces, help="in all; as many measurements are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to make it; default a temporary folder")
    parser.add_argument("--flashinfer-bench", type=Path, default=None, help="folder of the unpacked wheel")
    arguments = parser.parse_args()
    theirs = find_theirs(arguments.flashinfer_bench)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        root, cache = Path(name) / "dataset", Path(name) / "cache"
        made = make(root, Size(arguments.definitions, arguments.solutions, arguments.traces))
        print(f"{made.definitions} definitions, {made.solutions} solutions, {made.traces} traces", flush=True)
        found = rounds(root, cache, theirs, arguments.rounds)
    check(found, made.definitions, made.traces)
    warm_s = statistics.median(run["seconds"] for run in found["warm"])
    # A neighbour's load on the machine lasts for a round rather than for a loader.
    ratios = [other["seconds"] / ours["seconds"] for ours, other in zip(found["cold"], found[_THEIRS], strict=False)]
    result = {
        "definitions": made.definitions,
        "solutions": made.solutions,
        "traces": made.traces,
        "rounds": arguments.rounds,
        "cold_s": middle(found["cold"], "seconds", 4),
        "warm_ms": round(warm_s * 1e3, 2),
        "rss_mib": middle(found["warm"], "mib", 1),
        "cold_rss_mib": middle(found["cold"], "mib", 1),
        "trace_set_cold_s": middle(found["trace_set"], "seconds", 4),
        "trace_set_rss_mib": middle(found["trace_set"], "mib", 1),
        "flashinfer_bench_cold_s": middle(found[_THEIRS], "seconds", 4),
        "flashinfer_bench_rss_mib": middle(found[_THEIRS], "mib", 1),
        "ratio": round(statistics.median(ratios), 2) if ratios else None,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        loader, *paths = sys.argv[2:]
        load: dict[str, Callable[..., dict[str, Any]]] = {
            "catalog": catalog,
            "trace_set": trace_set,
            _THEIRS: flashinfer_bench,
        }
        print(json.dumps(load[loader](*map(Path, paths))))
    else:
        main()
