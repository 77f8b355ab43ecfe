"""The Triton kernels compile for Hopper at the shapes of real models, fit its shared memory and keep to registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

COMPILER = Path(__file__).with_name("hopper_compiler.py")
SHARED = 227 * 1024  # of a block, at most
FEW_BYTES = 16  # of a thread, spilled

LLAMA = {"num_qo_heads": 32, "num_kv_heads": 8, "head_dim": 128}
QWEN = {"topk": 8, "num_experts": 128, "hidden_size": 2048, "intermediate_size": 768}
CASES: list[tuple[str, str, dict[str, Any], dict[str, int], list[str]]] = [
    ("gemm_triton", "gemm", {"n": 4096, "k": 4096}, {}, ["_tiles"]),
    ("gqa_paged_triton", "gqa_paged_decode", LLAMA, {"num_kv_indices": 5000}, ["_attend", "_join"]),
    ("gqa_paged_triton", "gqa_paged_prefill", LLAMA, {}, ["_attend"]),
    ("gqa_ragged_triton", "gqa_ragged_prefill", LLAMA, {}, ["_attend"]),
    ("mla_paged_triton", "mla_paged_decode", {"num_qo_heads": 16}, {"num_kv_indices": 5000}, ["_attend", "_join"]),
    ("mla_paged_triton", "mla_paged_decode", {"num_qo_heads": 128, "page_size": 64}, {}, ["_attend", "_join"]),
    ("moe_triton", "moe", QWEN, {"num_tokens": 1}, ["_route", "_gate_up", "_down", "_add"]),
    ("moe_triton", "moe", QWEN, {"num_tokens": 4096}, ["_route", "_gate_up", "_down", "_add"]),
    ("sampling_triton", "top_k_top_p_sampling", {"vocab_size": 128256}, {}, ["_sample_rows"]),
]


@pytest.mark.parametrize(("source", "family", "constants", "axes", "kernels"), CASES)
def test_it_compiles_and_fits(
    source: str, family: str, constants: dict[str, Any], axes: dict[str, int], kernels: list[str], tmp_path: Path
) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(COMPILER), source, family, json.dumps(constants), json.dumps(axes)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one["kernel"] for one in found] == kernels
    assert [one for one in found if one["shared"] > SHARED or one["stack"] > FEW_BYTES] == []
