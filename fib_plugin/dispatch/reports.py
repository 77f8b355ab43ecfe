"""Reports: what probation found in a live engine, written down as Traces and Measurements. Serving is a benchmark.

Found on the engine's thread, written by the capture writer's.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fib_plugin.capture.blob import encode, host_tensor
from fib_plugin.capture.files import create, write_temporary
from fib_plugin.dataset import Measurement, append_measurements, current_environment, layout
from fib_plugin.dataset.lines import append_lines
from fib_plugin.dataset.measurements import LIVE
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.trial import Finding, Trial
from fib_plugin.schema import (
    Correctness,
    Definition,
    Evaluation,
    EvaluationStatus,
    Performance,
    Solution,
    Trace,
    Workload,
    content_hash,
    dump_line,
    dump_pretty,
)

logger = logging.getLogger("fib_plugin")

_MOST_PENDING = 10_000


class Reports:
    """Findings of one process on their way to the dataset.

    Args:
        root: the dataset.
        displaced: the engine's own op of (adapter, definition) as a Solution, or None.
    """

    def __init__(self, root: Path, displaced: Callable[[str, Definition], Solution | None]) -> None:
        self._root = root
        self._displaced = displaced
        self._pending: deque[tuple[Trial, Finding, str]] = deque(maxlen=_MOST_PENDING)
        self._run = f"{LIVE}-{socket.gethostname()}-{os.getpid()}"
        self._failed = False
        self.written = 0

    def add(self, trial: Trial, finding: Finding) -> None:
        """Takes note of a finding; cheap."""
        if finding.reason is not Reason.INTERNAL_ERROR:
            self._pending.append((trial, finding, datetime.now(timezone.utc).isoformat()))

    def flush(self) -> None:
        """Writes what was found. A dataset that cannot be written costs the reports and one log line."""
        while self._pending:
            trial, finding, timestamp = self._pending.popleft()
            try:
                self._write(trial, finding, timestamp)
                self.written += 1
            except Exception as error:
                if not self._failed:
                    logger.warning("what probation found cannot be written into %s: %s", self._root, error)
                self._failed = True

    def _write(self, trial: Trial, finding: Finding, timestamp: str) -> None:
        definition, solution = trial.site.definition, trial.runnable.solution
        environment = current_environment()
        uid = f"{LIVE}-{uuid.uuid4()}"
        workload = Workload.model_validate(
            {"axes": trial.entry.axes, "inputs": self._inputs(definition, finding, uid), "uuid": uid}
        )
        passed = finding.verdict.passed
        times = finding.times() if passed else None
        evaluation = Evaluation(
            status=finding.verdict.status,
            environment=environment,
            timestamp=timestamp,
            log=finding.detail or "compared with the engine's op on live calls; the reference was not run",
            correctness=(finding.verdict.correctness or Correctness()) if _compared(finding) else None,
            performance=Performance(latency_ms=times.solution_ms) if times is not None else None,
        )
        trace = Trace(definition=definition.name, workload=workload, solution=solution.name, evaluation=evaluation)
        displaced = self._displaced(trial.site.adapter, definition)
        if displaced is not None:
            create(layout.solution_file(self._root, displaced, definition), dump_pretty(displaced))
        append_lines(layout.traces_file(self._root, solution.author, definition), [dump_line(trace)], timeout=5.0)
        measurement = Measurement(
            run=self._run,
            source=LIVE,
            definition=definition.name,
            axes=trial.entry.axes,
            workload=uid,
            solution=solution.name,
            solution_hash=content_hash(solution),
            baseline=displaced.name if displaced is not None else None,
            baseline_hash=content_hash(displaced) if displaced is not None else None,
            status=finding.verdict.status.value,
            solution_ms=None if times is None else times.solution_ms,
            baseline_ms=None if times is None else times.baseline_ms,
            ratio=None if times is None else times.value,
            ratio_low=None if times is None else times.low,
            hardware=environment.hardware,
            libs=environment.libs,
            timestamp=timestamp,
        )
        append_measurements(self._root, definition.op_type, [measurement])

    def _inputs(self, definition: Definition, finding: Finding, uid: str) -> dict[str, Any]:
        inputs: dict[str, Any] = {name: {"type": "random"} for name in definition.inputs}
        tensors = {}
        for name, value in finding.inputs.items():
            if isinstance(value, (bool, int, float)):
                inputs[name] = {"type": "scalar", "value": value}
            else:
                tensors[name] = host_tensor(name, value)
        if tensors:
            path = layout.blob_folder(self._root, definition) / f"{definition.name}_{uid}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            write_temporary(temporary, encode(tensors))
            os.replace(temporary, path)
            for name in tensors:
                inputs[name] = {
                    "type": "safetensors",
                    "path": path.relative_to(self._root).as_posix(),
                    "tensor_key": name,
                }
        return inputs


def _compared(finding: Finding) -> bool:
    return finding.verdict.status in (EvaluationStatus.PASSED, EvaluationStatus.INCORRECT_NUMERICAL)
