"""One engine process as the demo sees it: start it, ask for rounds, stop it. Several take turns, never run at once."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ENGINE = Path(__file__).with_name("engine.py")
#: What SGLang's CPU engine imports and no CPU wheel has.
STAND_INS = Path(__file__).parents[2] / "tests" / "engines" / "stand_ins"
_MOST_WARM_UPS = 4


class ServerError(RuntimeError):
    """The engine process ended; the message names its log."""


@dataclass(frozen=True, slots=True)
class Round:
    """All requests served once: seconds, how many tokens came out, and those of the greedy requests."""

    seconds: float
    generated: int
    greedy: list[list[int]]


@dataclass(slots=True)
class Server:
    """An engine in a process of its own; use it in a ``with`` block.

    Args:
        name: of its log file.
        model: a checkpoint.
        count: how many requests a round has.
        work: folder of logs and of the engine's caches.
        switches: FIB_* variables; without any, the engine is stock.
        engine: vllm or sglang.
    """

    name: str
    model: Path
    count: int
    work: Path
    switches: Mapping[str, str]
    engine: str = "vllm"
    start_seconds: float = 0.0
    threads: int = 0
    rounds: list[Round] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None

    @property
    def log(self) -> Path:
        """Everything that the engine and the plugin said."""
        return self.work / "logs" / f"{self.name}.log"

    def __enter__(self) -> Server:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # Variables of the caller's own experiments must not change what is shown.
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("FIB_", "VLLM_"))}
        environment = {
            **clean,
            **engine_variables(self.engine),
            "HF_HUB_OFFLINE": "1",
            # One thread, and as many in the benchmark: ops of a tiny model gain nothing from a second one, and where
            # other processes hold its core, the first waits for it a thousand times longer than the op takes.
            "OMP_NUM_THREADS": "1",
            "VLLM_CACHE_ROOT": str(self.work / "vllm"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
            **self.switches,
        }
        started = time.perf_counter()
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, ENGINE, self.engine, self.model, str(self.count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        try:
            self.threads = self._answer()["threads"]
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.perf_counter() - started
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def round(self) -> Round:
        """Serves every request once."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write("round\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # _answer says why
        answer = self._answer()
        made = Round(sum(answer["seconds"].values()), answer["generated"], answer["greedy"])
        self.rounds.append(made)
        return made

    def warm_up(self) -> None:
        """Serves rounds until one is as fast as the one before it: the engine compiles what it meets."""
        before = self.round().seconds
        for _ in range(_MOST_WARM_UPS):
            now = self.round().seconds
            if now > 0.8 * before:
                return
            before = now

    def stop(self) -> None:
        """Ends the process in the orderly way, and with force when it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise ServerError(f"the {self.name} engine is not running; see {self.log}")
        return self._process

    def _answer(self) -> dict[str, Any]:
        process = self._running()
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            lines = self.log.read_text(errors="replace").splitlines()[-12:]
            raise ServerError("\n".join([f"the {self.name} engine ended; its log {self.log} closes with:", *lines]))
        answer: dict[str, Any] = json.loads(line)
        return answer


def engine_variables(engine: str) -> dict[str, str]:
    """What an engine, and a benchmark of its ops, must find in the environment on a CPU machine."""
    if engine == "sglang":
        paths = (str(STAND_INS), os.environ.get("PYTHONPATH", ""))
        return {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "SGLANG_USE_CPU_ENGINE": "1"}
    return {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }


@dataclass(frozen=True, slots=True)
class Race:
    """Two servers that served the same rounds in turn: what the second costs against the first."""

    stock: float
    other: float
    ratio: float
    lowest: float
    highest: float


def race(stock: Server, other: Server, rounds: int) -> Race:
    """Lets both serve ``rounds`` rounds, turn about, and compares each round with its neighbour.

    Whatever else the machine does slows both alike. The first of a pair alternates.
    """
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        order: Sequence[Server] = (stock, other) if number % 2 == 0 else (other, stock)
        seconds = {server.name: server.round().seconds for server in order}
        pairs.append((seconds[stock.name], seconds[other.name]))
    ratios = [theirs / ours for ours, theirs in pairs]
    return Race(
        stock=statistics.median(ours for ours, _ in pairs),
        other=statistics.median(theirs for _, theirs in pairs),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
    )
