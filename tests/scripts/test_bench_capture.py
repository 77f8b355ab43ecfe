"""The capture benchmark: its last line holds what it promises, and null where there is nothing to measure with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_capture.py"
KEYS = {"seen_ns", "new_us", "syncs", "records_per_s", "mib_per_s", "throughput_ratio"}


def test_the_last_line_is_one_object_with_every_key(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--no-engine", "--seconds", "0.2", "--blocks", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) >= KEYS
    assert found["throughput_ratio"] is None
    assert found["syncs"] == (0 if torch.cuda.is_available() else None)
    assert all(found[key] > 0 for key in ("seen_ns", "new_us", "records_per_s", "mib_per_s"))
    assert found["new_us"] >= max(found["new_gemm_us"], found["new_attention_us"])
