"""The demo: serve, capture, benchmark, serve again with what was proven. Started by scripts/demo.sh.

Every number that it prints was measured in this run, except those that ``fib bench --resume`` kept from the last one.
Exits with 1, and says why, when the loop did not close.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from outcome import Outcome, compare
from report import console, heading, show_outcome, show_races
from server import Server, ServerError, engine_variables, race
from traffic import requests

SCRIPTS = Path(__file__).parents[1]
NAMES = {"vllm": "vLLM", "sglang": "SGLang"}
MAKER = SCRIPTS / "make_model.py"


class DemoError(RuntimeError):
    """A step failed in a way that leaves nothing to go on with."""


class Demo:
    """The steps in their order, and the folders they share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.engine = arguments.engine
        # Each engine's libraries measure for themselves.
        self.work = SCRIPTS.parent / (".demo" if self.engine == "vllm" else f".demo-{self.engine}")
        self.dataset = self.work / "dataset"
        self.cache = self.work / "cache"
        self.started = time.perf_counter()

    def run(self) -> Outcome:
        """All of it."""
        if self.arguments.fresh:
            shutil.rmtree(self.work, ignore_errors=True)
        shutil.rmtree(self.cache / "status", ignore_errors=True)
        model = self.model()
        rounds = self.arguments.rounds
        with self.server("stock", model) as stock:
            capture = self.work / "capture"
            shutil.rmtree(capture, ignore_errors=True)
            self.serving("Serve with capture on, from an empty dataset", "FIB_ENABLE_TRACING=1")
            stock.warm_up()
            with self.server("tracing", model, **self.switches(capture, "FIB_ENABLE_TRACING")) as tracing:
                tracing.warm_up()
                traced = race(stock, tracing, rounds)
            self.captured(capture)
            self.bench(stock.threads)
            self.serving("Serve the same requests with apply on", "FIB_ENABLE_APPLY=1")
            with self.server("apply", model, **self.switches(self.dataset, "FIB_ENABLE_APPLY")) as applied:
                stock.warm_up()
                applied.warm_up()
                substituted = race(stock, applied, rounds)
        heading("What ran: fib status")
        self.fib("status")
        heading("With and without: what it costs, and whether the answers are the same")
        show_races(stock, [(tracing, traced), (applied, substituted)])
        outcome = compare(self.dataset, self.cache, stock, [tracing, applied])
        show_outcome(outcome)
        return outcome

    def server(self, name: str, model: Path, **switches: str) -> Server:
        """An engine process that is not started yet."""
        return Server(name, model, self.arguments.requests, self.work, switches, self.engine)

    def model(self) -> Path:
        """A checkpoint; kept until the script that makes it changes."""
        path = self.work / f"model-{hashlib.sha256(MAKER.read_bytes()).hexdigest()[:8]}"
        heading("A tiny llama with random weights")
        if path.exists():
            console.print(f"kept from the last run: {path}")
        else:
            environment = {**os.environ, **engine_variables(self.engine)}
            subprocess.run([sys.executable, MAKER, path], check=True, stderr=subprocess.DEVNULL, env=environment)
            console.print(f"made {path}")
        return path

    def switches(self, dataset: Path, *enabled: str) -> dict[str, str]:
        """The variables that turn the plugin on in an engine process."""
        paths = {
            "FIB_DATASET_PATH": str(dataset),
            "FIB_CACHE_PATH": str(self.cache),
            "FIB_LOCK_PATH": str(self.work / "fib.lock"),
        }
        return {**paths, **dict.fromkeys(enabled, "1")}

    def serving(self, title: str, switch: str) -> None:
        """Says what is about to be served."""
        heading(title)
        groups = requests(self.arguments.requests)
        prompts = sum(len(request.prompt) for group in groups.values() for request in group)
        told = ", ".join(f"{len(group)} {name}" for name, group in groups.items())
        console.print(
            f"{self.arguments.requests} requests ({told}), {prompts} prompt tokens; real lengths, scaled down"
        )
        console.print(
            f"{NAMES[self.engine]} on CPU, eager, {switch}; a stock engine serves the same rounds, turn about"
        )

    def captured(self, capture: Path) -> None:
        """Brings the capture into the dataset and shows it."""
        heading("What was captured: fib dataset merge, fib dataset stats")
        self.fib("dataset", "merge", "--into", str(capture))
        self.fib("dataset", "stats", str(capture))
        if not any(capture.glob("workloads/**/*.jsonl")):
            raise DemoError(f"no workloads were captured; see {self.work / 'logs' / 'tracing.log'}")
        self.fib("dataset", "merge", str(capture), "--into", str(self.dataset), quiet=True)

    def bench(self, threads: int) -> None:
        """Packs the shipped kernels and measures them on the captured workloads, with as many threads as the engine."""
        heading("The shipped kernels for these ops: fib pack")
        self.fib("pack", quiet=True)
        heading("Right or wrong, and how fast: fib bench")
        console.print(
            "the engine's own op, torch and C++ kernels (Triton's need a GPU), with the engine's number of threads"
        )
        console.print(f"({threads}); of each definition the {self.arguments.workloads} sizes that were called most")
        kinds = (f"{self.engine}_*", "*_torch__*", "*_cpp__*")
        options = ["--resume", "--threads", str(threads), "--workloads", str(self.arguments.workloads)]
        self.fib("bench", *options, *(word for kind in kinds for word in ("--solutions", kind)), quiet=True)
        heading("Who is correct and who is fast: fib board")
        self.fib("board")
        heading("Trust what passed, or it does not run: fib trust add --all")
        self.fib("trust", "add", "--all", quiet=True)

    def fib(self, *arguments: str, quiet: bool = False) -> None:
        """Runs the command line tool; a quiet one shows its last line and leaves the rest in a log."""
        name = "-".join(word for word in arguments[:2] if word.isalpha())
        command = [sys.executable, "-m", "fib_plugin", *arguments]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FIB_")}
        environment |= {"COLUMNS": str(console.width), **engine_variables(self.engine), **self.switches(self.dataset)}
        if not quiet:
            done = subprocess.run(command, env=environment, check=False)
        else:
            log = self.work / "logs" / f"fib-{name}.log"
            with log.open("a+") as output:
                begin = output.tell()
                done = subprocess.run(command, env=environment, stdout=output, check=False)
                output.seek(begin)
                last = output.read().strip().splitlines()[-1:] or ["(said nothing)"]
            console.print(f"{last[0]}  [dim]({log})[/dim]", highlight=False)
        if done.returncode != 0:
            raise DemoError(f"fib {' '.join(arguments)} ended with exit code {done.returncode}")


def main() -> int:
    """The demo's exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo.sh", description="Capture, benchmark, apply on a real engine.")
    parser.add_argument("--engine", choices=tuple(NAMES), default="vllm", help="which one (default vllm)")
    parser.add_argument("--fresh", action="store_true", help="forget earlier captures, measurements and builds")
    parser.add_argument("--requests", type=int, default=48, metavar="N", help="requests a round (default 48)")
    parser.add_argument("--rounds", type=int, default=13, metavar="N", help="timed rounds of each engine (default 13)")
    parser.add_argument("--workloads", type=int, default=3, metavar="N", help="benchmarked a definition (default 3)")
    demo = Demo(parser.parse_args())
    try:
        outcome = demo.run()
    except (DemoError, ServerError, subprocess.CalledProcessError) as error:
        console.print(f"[red]the loop did not close:[/red] {error}", highlight=False, soft_wrap=True)
        return 1
    console.print(f"\ntook {time.perf_counter() - demo.started:.0f} s; everything is in {demo.work}", highlight=False)
    for failure in outcome.failures:
        console.print(f"[red]the loop did not close:[/red] {failure}", highlight=False, soft_wrap=True)
    if not outcome.failures:
        console.print("[green]the loop closed:[/green] captured, measured, proven faster, applied, answers unchanged")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
