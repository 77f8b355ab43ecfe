"""Norms in compiled graphs: on a GPU they stay where Inductor fuses them, unless the operator asks for them by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from proven import prove

from fib_plugin import ops

pytest.importorskip("vllm")

WIDTH = 16


@pytest.mark.parametrize(
    ("device", "adapters", "answer"),
    [("cpu", "", "ours"), ("cuda", "", "stock"), ("cuda", "vllm", "stock"), ("cuda", "vllm,vllm.norm", "ours")],
)
def test_a_proven_norm_leaves_a_gpus_compiled_graph_only_where_it_is_named(
    device: str,
    adapters: str,
    answer: str,
    make_runtime: Callable[..., Any],
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fib_plugin.adapters.vllm.norm import Norm

    prove(dataset, ops.ALL["rmsnorm"].definition(hidden_size=WIDTH, eps=1e-5, dtype="float32"))
    norm = Norm(make_runtime(adapters=adapters))
    norm.plain = SimpleNamespace(call=lambda *args: "ours", schema="")  # type: ignore[assignment]
    monkeypatch.setattr("fib_plugin.adapters.vllm.norm.is_dynamo_compiling", lambda: True)
    weight = SimpleNamespace(dtype=torch.float32, data=None)
    layer = SimpleNamespace(has_weight=True, weight=weight, variance_size_override=None, variance_epsilon=1e-5)
    x = SimpleNamespace(shape=(4, WIDTH), is_cuda=device == "cuda", dtype=torch.float32)
    assert norm.forward(lambda *args: "stock")(layer, x) == answer
