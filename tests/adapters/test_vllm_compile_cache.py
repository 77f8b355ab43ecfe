"""The key of vLLM's compiled artifacts: the engine's own, and what of us changes a traced graph."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fib_plugin.adapters.vllm.compile_cache import CompileCache
from fib_plugin.adapters.vllm.engine import VLLM

import fib_plugin


def key(adapters: dict[str, str], *args: Any, live: bool = True, **kwargs: Any) -> str:
    """The key with these adapters and the facts that they tell of their graphs."""
    made = {
        name: SimpleNamespace(engine=VLLM, graph_facts=lambda facts=facts: facts) for name, facts in adapters.items()
    }
    cache = CompileCache(SimpleNamespace(adapters=made))  # type: ignore[arg-type]
    cache.live = live
    return cache.compute_hash(lambda config, include_version=True: f"{config}{include_version:d}" * 5)(*args, **kwargs)


BOTH = {"vllm.gemm": "gemm [1]", "vllm.norm": "norm [2]"}


def test_the_same_adapters_have_the_same_key_in_whatever_order() -> None:
    assert key(BOTH, "a") == key(dict(reversed(BOTH.items())), "a")
    assert len(key(BOTH, "a")) == len("a1" * 5)


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"vllm.gemm": "gemm [1]"},
        {**BOTH, "vllm.rope": ""},
        {**BOTH, "vllm.norm": "norm [2, 3]"},
    ],
)
def test_other_adapters_or_other_sizes_have_another_key(other: dict[str, str]) -> None:
    assert key(other, "a") != key(BOTH, "a")


def test_without_the_plugin_the_engines_own_key_stands() -> None:
    assert key(BOTH, "a", live=False) == "a1" * 5
    assert key(BOTH, "a") != "a1" * 5


def test_another_version_of_the_plugin_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(BOTH, "a")
    monkeypatch.setattr(fib_plugin, "__version__", "99")
    assert key(BOTH, "a") != before


def test_what_the_engine_hashes_still_decides() -> None:
    assert key(BOTH, "a") != key(BOTH, "b")
    assert key(BOTH, "a", include_version=False) != key(BOTH, "a")
