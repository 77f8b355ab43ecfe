"""Benches entries in a process of its own, which a cheat may kill, and says how each one fared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))

from adversarial.room import Entry, entries, make_dataset  # noqa: E402

#: A win by no more than this is noise of the clock (what counts as one in an engine is stricter).
MARGIN = 1.05


@dataclass(frozen=True, slots=True)
class Fate:
    """How an entry fared."""

    name: str
    status: str
    foul: str
    log: str
    ratio_low: float | None = None

    @property
    def won(self) -> bool:
        return self.status == "PASSED" and self.ratio_low is not None and self.ratio_low > MARGIN


def bench_all(folder: Path) -> dict[str, Fate]:
    """Fates of all entries that can run on this host; the two folders are benched beside each other."""
    import torch

    here = [entry for entry in entries() if not entry.needs or (entry.needs == "cuda" and torch.cuda.is_available())]
    groups = {
        "cheats": [entry for entry in here if entry.cheats and not entry.needs],
        "honest": [entry for entry in here if not entry.cheats and not entry.needs],
        "cuda": [entry for entry in here if entry.needs],
    }
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda name: bench(groups[name], folder / name), groups)
        return {name: fate for part in found for name, fate in part.items()}


def bench(chosen: list[Entry], folder: Path, timeout: float = 900.0) -> dict[str, Fate]:
    """Fates by name. Whatever kills the process that benches has escaped, and the rest is benched without it."""
    found: dict[str, Fate] = {}
    left = list(chosen)
    for attempt in range(5):
        if not left:
            break
        here = folder / str(attempt)
        here.mkdir(parents=True)
        (here / "order.json").write_text(json.dumps([entry.name for entry in left]))
        code, said = _run(here, timeout, gpu=any(entry.needs for entry in left))
        found |= _read(here)
        left = [entry for entry in left if entry.name not in found]
        if left and code:
            at = _read_doing(here)
            victim = next((entry for entry in left if entry.name == at), left[0])
            found[victim.name] = Fate(victim.name, "ESCAPED", "", f"the benchmark ended with {code}: {said[-800:]}")
            left.remove(victim)
        elif left:
            break
    found |= {entry.name: Fate(entry.name, "MISSING", "", "it was not benched") for entry in left}
    return found | _escapes(chosen, folder)


def stopped(entry: Entry, fate: Fate) -> bool:
    """Whether a cheat got nothing: it failed with a declared status, or (win=no) passed and did not win."""
    if fate.status == "PASSED":
        return entry.only_no_win and not fate.won
    return fate.status in entry.statuses


def named(entry: Entry, fate: Fate) -> bool:
    """Whether a cheat that failed did so for a reason that its file declares."""
    return fate.foul in entry.fouls or (fate.status == "PASSED" and stopped(entry, fate))


def caught(entry: Entry, fate: Fate) -> bool:
    """Stopped, for the right reason."""
    return stopped(entry, fate) and named(entry, fate)


def _run(here: Path, timeout: float, gpu: bool) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])}
    if not gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    log = here / "said.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "trial.py"), str(here)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = -1
    return code, log.read_text(errors="replace")


def _read(here: Path) -> dict[str, Fate]:
    path = here / "fates.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    fates = [json.loads(line) for line in lines]
    return {fate["name"]: Fate(**fate) for fate in fates if "name" in fate}  # a cheat may have written here too


def _escapes(chosen: list[Entry], folder: Path) -> dict[str, Fate]:
    """What the statuses do not tell: forged lines in the dataset, processes that outlived the run."""
    found = {}
    files = [file for file in folder.rglob("*.jsonl") if '\n{"forged"' in "\n" + file.read_text(errors="replace")]
    alive = {_comm(process) for process in Path("/proc").glob("[0-9]*")}
    for entry in chosen:
        if entry.fields.get("forges") and files:
            where = ", ".join(str(file.relative_to(folder)) for file in files)
            found[entry.name] = Fate(entry.name, "ESCAPED", "", f"it wrote into {where}")
        if entry.fields.get("leaves") in alive:
            found[entry.name] = Fate(entry.name, "ESCAPED", "", "a process of its own outlived the run")
    return found


def _comm(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return ""


def _read_doing(here: Path) -> str:
    path = here / "doing"
    return path.read_text() if path.exists() else ""


def _main(here: Path) -> None:
    from fib_plugin.bench import run_bench
    from fib_plugin.bench.runner import Progress

    wanted = set(json.loads((here / "order.json").read_text()))
    chosen = [entry for entry in entries() if entry.name in wanted]
    traces = make_dataset(here / "dataset", chosen)

    def note(progress: Progress) -> None:
        if progress.doing:
            (here / "doing").write_text(progress.doing.rpartition(": ")[2])
        if progress.problem:
            print(progress.problem, flush=True)
        if progress.result is not None:
            fate = _fate(progress.result)
            with (here / "fates.jsonl").open("a") as file:
                file.write(json.dumps(asdict(fate)) + "\n")

    run_bench(traces, progress=note, timeout=30.0 if any(entry.cheats for entry in chosen) else 150.0, threads=1, cache=here.parent / "cache")


def _fate(result: Any) -> Fate:
    log = result.log or ""
    foul = log[1 : log.index("]")] if log.startswith("[") and "]" in log else ""
    return Fate(result.solution.name, result.status.value, foul, log[:1500], result.measurement.ratio_low)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
