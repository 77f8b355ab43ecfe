"""The second model runner's sampler: only calls that the engine calls free for a fused sampler are substituted."""

from __future__ import annotations

from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.vllm.sampling_v2 import SamplingV2

from fib_plugin import ops

ROWS, VOCAB = 5, 7
FAMILIES = {"top_k_sampling": (True, False), "top_p_sampling": (False, True), "top_k_top_p_sampling": (True, True)}
SHIFT = "\n_right = run\n\n\ndef run(*inputs):\n    return _right(*inputs) + 100\n"


@pytest.fixture
def runtime(make_runtime: Any, dataset: Any) -> Any:
    for family in FAMILIES:
        definition = ops.ALL[family].definition(vocab_size=VOCAB)
        proven.prove(dataset, definition, proven.solution(definition, family, SHIFT), sizes=(ROWS,))
    return make_runtime()


def v30(self, logits, mapping, host, pos, top_k, top_p, use_flashinfer):  # type: ignore[no-untyped-def]
    return "the engine", logits


def v32(self, logits, mapping, host, pos, top_k, top_p, use_fused_sampler):  # type: ignore[no-untyped-def]
    return "the engine", logits


def v33(self, logits, mapping, host, pos, top_k, top_p, has_topp_only_rows, use_fused_sampler):  # type: ignore[no-untyped-def]
    return "the engine", logits


def later(self, logits, mapping, host, pos, top_k, top_p, use_fused_sampler, verify):  # type: ignore[no-untyped-def]
    return "the engine", logits


def sample(runtime: Any, k: bool, p: bool, fused: bool = True, of: Any = v33) -> tuple[Any, torch.Tensor]:
    """Each row has one token that is likely."""
    logits = torch.eye(VOCAB)[:ROWS] * 50
    top_k = torch.ones(ROWS, dtype=torch.int32) if k else None
    top_p = torch.full((ROWS,), 0.5) if p else None
    rest = (fused,) if of in (v30, v32) else (True, fused) if of is later else (False, fused)
    wrapped = SamplingV2(runtime).sample_random(of)
    return wrapped(object(), logits, None, None, None, top_k, top_p, *rest)  # type: ignore[no-any-return]


@pytest.mark.parametrize("of", [v30, v32, v33])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_solution_draws_from_the_filtered_logits(runtime: Any, family: str, of: Any) -> None:
    sampled, logits = sample(runtime, *FAMILIES[family], of=of)
    assert sampled.tolist() == [100, 101, 102, 103, 104]
    assert logits.shape == (ROWS, VOCAB)


def test_greedy_and_seeded_requests_and_processed_logits_are_the_engines(runtime: Any) -> None:
    assert sample(runtime, True, True, fused=False)[0] == "the engine"
    assert runtime.snapshot()["status"]["ops"]["vllm.sampling_v2"]["fallbacks"] == {"unsupported_argument": 1}


def test_a_draw_without_a_filter_is_not_looked_at(runtime: Any) -> None:
    assert sample(runtime, False, False, fused=False)[0] == "the engine"
    assert "vllm.sampling_v2" not in runtime.snapshot()["status"]["ops"]


def test_a_version_that_says_it_otherwise_is_left_alone(runtime: Any) -> None:
    assert sample(runtime, True, True, of=later)[0] == "the engine"
    assert any("vllm.sampling_v2" in note for note in runtime.notes)
