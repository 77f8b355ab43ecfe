"""`fib compare -- COMMAND` with a real vLLM that is started for every measurement: off is stock, on is substituted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engines.conftest import engine_process
from engines.forge import forge, lock_of

pytestmark = pytest.mark.engine

ROUNDS = 2
#: The command's number is no time but the sum of its tokens: it says which side ran, exactly.
COMMAND = Path(__file__).with_name("vllm_sum.py")


@pytest.fixture(scope="module")
def compared(captured_llama, checkpoint, workspace: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `fib compare` printed, and what the last engine left, which is one of the off side."""
    dataset = forge(captured_llama.dataset, workspace / "forged_compare")
    job, out = workspace / "compare.job.json", workspace / "compare.out.json"
    steps = [{"objects": "objects"}, {"generate": "marked", "mark": "gemm"}, {"status": "status"}]
    asked = {"model": str(checkpoint("llama")), "eager": True, "out": str(out), "preimport": True, "steps": steps}
    job.write_text(json.dumps(asked))
    python, own = engine_process("vllm", workspace)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("FIB_", "VLLM_"))}
    ours = {
        "HF_HUB_OFFLINE": "1",
        "FIB_CACHE_PATH": str(workspace / "compare.cache"),
        "FIB_LOCK_PATH": str(lock_of(dataset)),
        "FIB_PROBATION": "0",
        # Only what `fib compare` does about it makes the off side stock.
        "FIB_ENABLE_APPLY": "1",
    }
    arguments = ["--rounds", str(ROUNDS), "--warmup", "0", "--key", "sum", "--json", "--dataset", str(dataset)]
    done = subprocess.run(
        [sys.executable, "-m", "fib_plugin", "compare", *arguments, "--", python, str(COMMAND), str(job)],
        env={**clean, **own, **ours},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return json.loads(done.stdout), json.loads(out.read_text())


def test_off_answers_as_stock_in_every_round(compared, captured_llama) -> None:
    stock = sum(map(sum, captured_llama.results["greedy"]))
    assert compared[0]["samples"]["off"] == [stock] * ROUNDS


def test_on_answers_with_the_watermarked_solution_in_every_round(compared) -> None:
    off, on = compared[0]["samples"]["off"], compared[0]["samples"]["on"]
    assert len(on) == ROUNDS
    assert len(set(on)) == 1
    assert not set(on) & set(off)
    assert compared[0]["ratio"] == pytest.approx(off[0] / on[0], abs=1e-4)


def test_off_has_the_engines_own_objects_and_no_plugin(compared) -> None:
    last = compared[1]
    assert len(last["objects"]) > 10
    assert all(last["objects"].values())
    assert last["status"] is None


def test_what_the_plugin_did_is_that_of_the_on_side(compared) -> None:
    told = compared[0]["plugin"]
    assert told["processes"] == ROUNDS
    assert 0 < told["substituted"] <= told["calls"]
    assert compared[0]["doubt"] is None
