"""A pytest plugin: writes each outcome to the file GPU_TESTS_OUT as soon as it is known (see gpu_tests.py)."""

from __future__ import annotations

import json
import os
from typing import Any

_SHOWN = 2000


def pytest_runtest_logreport(report: Any) -> None:
    # A test has one line: its own, unless setting it up or clearing up says more.
    if (
        report.when == "call"
        or (report.when == "setup" and not report.passed)
        or (report.when != "call" and report.failed)
    ):
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        _write(report.nodeid, outcome, report.duration, _reason(report))


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        _write(report.nodeid, "error", 0.0, str(report.longrepr)[-_SHOWN:])
    elif report.skipped:
        _write(report.nodeid, "skipped", 0.0, _reason(report))


def _reason(report: Any) -> str:
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)[-_SHOWN:]


def _write(name: str, outcome: str, seconds: float, reason: str) -> None:
    line: dict[str, Any] = {"outcome": outcome, "seconds": round(seconds, 3)}
    if reason:
        line["reason"] = reason
    with open(os.environ["GPU_TESTS_OUT"], "a", encoding="utf-8") as out:
        out.write(json.dumps([name, line]) + "\n")
