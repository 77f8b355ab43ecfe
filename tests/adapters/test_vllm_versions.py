"""What differs between vLLM's versions and is handled by looking, not by a target of its own; no engine needed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fib_plugin.adapters.vllm import attention, norm
from fib_plugin.adapters.vllm.cpu_cache import CpuCache, halves
from fib_plugin.adapters.vllm.sampling import Sampling


def test_keys_and_values_are_two_pools_before_0_23_and_halves_of_a_block_since() -> None:
    keys, values = torch.rand(2, 6, 2, 4, 8)
    old = torch.stack([keys, values])
    new = torch.cat([keys, values], dim=2).view(6, 2, 4, 16)
    for cache in (old, new):
        found = halves(cache)
        assert torch.equal(found[0], keys)
        assert torch.equal(found[1], values)


def test_both_caches_are_unpacked_to_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    order = torch.arange(4 * 8)
    monkeypatch.setattr("fib_plugin.adapters.vllm.cpu_cache._probe", lambda *key: (order, order.flip(0)))
    keys, values = torch.rand(2, 6, 2, 4, 8)
    chosen = torch.tensor([5, 6, 20], dtype=torch.int32)
    old = CpuCache().unpack("vec", torch.stack([keys, values]), chosen, 8, torch.float32)
    new = CpuCache().unpack("vec", torch.cat([keys, values], dim=2).view(6, 2, 4, 16), chosen, 8, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    # Token 5 is the second of block 1.
    assert torch.equal(old[0][old[2].long()[0], 0], keys[1, :, 1])


def call(**of: Any) -> Any:
    return SimpleNamespace(layer=SimpleNamespace(), impl=SimpleNamespace(), metadata=SimpleNamespace(), **of)


@pytest.mark.parametrize("holder", ["layer", "impl", "metadata"])
def test_the_instruction_set_is_found_where_the_version_keeps_it(holder: str) -> None:
    asked = call()
    setattr(asked, holder, SimpleNamespace(isa="amx"))
    assert attention._isa(asked) == "amx"


@pytest.mark.parametrize("window", [-1, (-1, -1)])
def test_no_window_is_a_number_or_a_pair(window: object) -> None:
    impl = SimpleNamespace(attn_type="decoder", sliding_window=window, logits_soft_cap=0, alibi_slopes=None, sinks=None)
    metadata = SimpleNamespace(causal=True)
    assert not attention._unsupported(impl, metadata)
    impl.sliding_window = 127 if isinstance(window, int) else (127, 0)
    assert attention._unsupported(impl, metadata)


class Impl:
    """A registered implementation of an op of vllm.ir."""

    def __init__(self, supported: bool) -> None:
        self.supported = supported
        self.impl_fn = self


@pytest.mark.parametrize(
    ("cuda", "impls", "kernel"),
    [
        (True, {"vllm_c": Impl(True)}, True),
        (True, {"vllm_c": Impl(False)}, False),
        (True, {}, False),
        (False, {"vllm_c": Impl(True)}, False),
    ],
)
def test_norms_go_to_the_engines_kernel_where_the_device_has_one(
    cuda: bool, impls: dict[str, Impl], kernel: bool
) -> None:
    op = SimpleNamespace(impls=impls)
    assert norm._kernel(op, SimpleNamespace(is_cuda=cuda)) is (impls["vllm_c"] if kernel else op)


Run = Callable[..., tuple[torch.Tensor, None]]


def sampler(make_runtime: Callable[..., Any], **of: Any) -> tuple[Sampling, Any, Run]:
    """The adapter, an engine's sampler, and its wrapped method, which calls another wrapped one."""
    adapter = Sampling(make_runtime(apply=False, tracing=True))
    engine = SimpleNamespace(logprobs_mode="raw_logprobs", **of)
    native = adapter.forward(lambda s, logits, generators, k, p: (logits.argmax(-1), None))
    return adapter, engine, adapter.forward(lambda *args: native(*args))


def test_a_method_that_calls_another_is_one_call(make_runtime: Callable[..., Any]) -> None:
    adapter, engine, forward = sampler(make_runtime)
    logits = torch.rand(3, 16)
    tokens, _ = forward(engine, logits, {}, torch.tensor([1, 1, 1]), None)
    assert torch.equal(tokens, logits.argmax(-1))
    (site,) = adapter.runtime.sites
    assert sum(entry.calls for entry in site.all_entries()) == 1


def test_noise_in_float64_is_declined_once(make_runtime: Callable[..., Any]) -> None:
    adapter, engine, forward = sampler(make_runtime, use_fp64_gumbel=True)
    forward(engine, torch.rand(3, 16), {}, torch.tensor([1, 1, 1]), None)
    assert dict(adapter.runtime.declined["vllm.sampling"]) == {"unsupported_argument": 1}
    assert not adapter.runtime.sites
