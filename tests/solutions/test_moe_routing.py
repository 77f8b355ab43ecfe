"""moe_triton's own routing, in Triton's interpreter: many pairs, experts without tokens, ids that are no expert's.

Also run as a script, which prints the largest error of a case by its name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from fib_plugin import ops
from fib_plugin.build import build
from fib_plugin.pack import find_sources

CASES = ("more pairs than a pass takes", "all tokens to one expert", "an id that is no expert's")
HIDDEN, INNER = 32, 16


def inputs(case: str) -> tuple[int, torch.Tensor]:
    """Experts, and the ids of each token's."""
    torch.manual_seed(0)
    if case == "more pairs than a pass takes":
        return 5, torch.rand(2100, 5).topk(2).indices.int()
    if case == "all tokens to one expert":
        return 40, torch.tensor([[39, 0]] * 70, dtype=torch.int32)
    return 6, torch.tensor([[0, -1], [5, 6], [-1, -1], [3, 0]], dtype=torch.int32)


def error_of(case: str, cache: Path) -> float:
    experts, ids = inputs(case)
    (source,) = (source for source in find_sources() if source.name == "moe_triton")
    definition = ops.ALL["moe"].definition(
        topk=2, num_experts=experts, hidden_size=HIDDEN, intermediate_size=INNER, dtype="float32"
    )
    moe = build(source.solution_for(definition, "moe"), definition, cache).call
    x = torch.randn(len(ids), HIDDEN)
    w13, w2 = torch.randn(experts, 2 * INNER, HIDDEN) * 0.2, torch.randn(experts, HIDDEN, INNER) * 0.2
    weights = torch.rand(ids.shape)
    want = torch.zeros_like(x)
    for expert in range(experts):
        token, slot = (ids == expert).nonzero(as_tuple=True)
        gate, up = (x[token] @ w13[expert].T).chunk(2, dim=1)
        rows = (torch.nn.functional.silu(gate) * up) @ w2[expert].T
        want.index_add_(0, token, rows * weights[token, slot, None])
    return float((moe(x, w13, w2, weights, ids) - want).abs().max())


@pytest.mark.parametrize("case", CASES)
def test_every_pair_reaches_its_expert(case: str) -> None:
    done = subprocess.run(
        [sys.executable, __file__, case],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) < 1e-4


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(error_of(sys.argv[1], Path(folder)))
