"""Shipped norms on a GPU, in the form that leaves their outputs in the place of their inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fib_plugin import ops
from fib_plugin.build import build
from fib_plugin.dispatch.in_place import in_place
from fib_plugin.pack import find_sources

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SOURCES = {
    source.name: source
    for source in find_sources()
    if "fused_add_rmsnorm" in source.families and source.destination_passing_style and "cuda" in source.target_hardware
}
MUTABLE = ("hidden_states", "residual")


@pytest.mark.parametrize("width", [100, 2048, 4096, 16384, 20000])
@pytest.mark.parametrize("name", SOURCES)
def test_a_norm_over_its_own_inputs_is_the_norm(name: str, width: int, tmp_path: Path) -> None:
    definition = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=width, eps=1e-5)
    runnable = build(SOURCES[name].solution_for(definition, "fused_add_rmsnorm"), definition, tmp_path)
    over = in_place(runnable, (0, 1), MUTABLE)
    assert over is not None
    for rows in (1, 7, 64, 300):
        x, residual = torch.randn(2, rows, width, device="cuda").to(torch.bfloat16)
        weight = torch.randn(width, device="cuda").to(torch.bfloat16)
        expected = runnable.call(x, residual, weight)
        found = over(x, residual, weight)
        assert found[0] is x
        assert found[1] is residual
        assert torch.equal(x, expected[0])
        assert torch.equal(residual, expected[1])
