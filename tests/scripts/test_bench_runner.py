"""scripts/bench_runner.py on a small set: it runs, and says why flashinfer-bench's runner did not where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_runner.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a host without a GPU says")
def test_the_last_line_is_one_json_object() -> None:
    sizes = ["--definitions", "1", "--workloads", "1", "--solutions", "2", "--rounds", "1"]
    done = subprocess.run([sys.executable, str(SCRIPT), *sizes], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["evaluations"] == 2
    assert told["fib_bench"] > 0
    assert told["bare_loop"] > 0
    assert told["over_bare"] == pytest.approx(told["fib_bench"] / told["bare_loop"], rel=0.05)  # both are rounded
    assert told["flashinfer_bench"] is None
    assert told["flashinfer_bench_why"]
    assert told["over_flashinfer_bench"] is None
