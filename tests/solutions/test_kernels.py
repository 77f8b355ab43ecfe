"""Every shipped kernel builds and agrees with its reference, tails, strides and empty requests included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import solution_cases
import torch

from fib_plugin import ops
from fib_plugin.build import build
from fib_plugin.dataset import TraceSet
from fib_plugin.pack import Source, find_sources
from fib_plugin.schema import Language

SOURCES = {source.name: source for source in find_sources()}
TRITON = [name for name, source in SOURCES.items() if source.language is Language.TRITON]
CUDA = [name for name, source in SOURCES.items() if source.language is Language.CUDA]
NATIVE = [name for name in SOURCES if name not in TRITON + CUDA]
NAMES = [definition.name for definition in solution_cases.definitions()]
FAMILIES = {
    definition.name: spec.family
    for definition in solution_cases.definitions()
    if (spec := ops.family_of(definition)) is not None
}


def cases(names: list[str]) -> list[tuple[str, str]]:
    return [(source, name) for source in names for name in NAMES if FAMILIES[name] in SOURCES[source].families]


@pytest.mark.parametrize(("source", "definition"), cases(NATIVE))
def test_agrees_with_the_reference(source: str, definition: str, traces: TraceSet, cache: Path) -> None:
    solution = traces.get_solution(f"{source}__{definition}")
    assert solution is not None, f"{source} was not packed for {definition}"
    assert solution_cases.problem_of(solution, traces.definitions[definition], cache) is None


@pytest.mark.parametrize("source", TRITON)
def test_triton_agrees_with_the_reference_in_the_interpreter(source: str, root: Path, cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, solution_cases.__file__, str(root), str(cache), source],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = {name: problem for line in done.stdout.splitlines() for name, problem in json.loads(line).items()}
    assert {name: problem for name, problem in results.items() if problem} == {}
    assert set(results) == {name for _, name in cases([source])}


@pytest.mark.parametrize("op_type", sorted({spec.op_type for spec in ops.ALL.values()}))
def test_every_op_type_has_a_torch_a_triton_and_a_cpp_kernel(op_type: str) -> None:
    families = {family for family, spec in ops.ALL.items() if spec.op_type == op_type}
    for family in families:
        languages = {str(source.language) for source in SOURCES.values() if family in source.families}
        # Of fp8 only GPUs have units; a compiler's torch and Triton reach them.
        wanted = {"python", "triton"} if "_fp8_" in family else {"python", "triton", "cpp"}
        assert wanted <= languages, family


def native(traces: TraceSet, cache: Path, source: str, definition: str):  # type: ignore[no-untyped-def]
    solution = traces.get_solution(f"{source}__{definition}")
    assert solution is not None
    return build(solution, traces.definitions[definition], cache)


def test_cpp_names_the_tensor_of_a_wrong_shape(traces: TraceSet, cache: Path) -> None:
    rmsnorm = native(traces, cache, "rmsnorm_cpp", "rmsnorm_h128")
    x = torch.zeros(2, 128, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"weight has shape \[64\], expected \[128\]"):
        rmsnorm.into(x, torch.zeros(64, dtype=torch.bfloat16), torch.empty_like(x))


def test_cpp_names_the_tensor_of_a_wrong_dtype(traces: TraceSet, cache: Path) -> None:
    rmsnorm = native(traces, cache, "rmsnorm_cpp", "rmsnorm_h128")
    x = torch.zeros(2, 128, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="weight has the wrong dtype, expected bfloat16"):
        rmsnorm.into(x, torch.zeros(128), torch.empty_like(x))


def test_cpp_refuses_a_stride_in_the_last_dimension(traces: TraceSet, cache: Path) -> None:
    rmsnorm = native(traces, cache, "rmsnorm_cpp", "rmsnorm_h128")
    x = torch.zeros(128, 2, dtype=torch.bfloat16).T
    with pytest.raises(ValueError, match="hidden_states has stride 2 in its last dimension, expected 1"):
        rmsnorm.into(x, torch.zeros(128, dtype=torch.bfloat16), torch.empty(2, 128, dtype=torch.bfloat16))


def test_cpp_fused_add_may_write_over_its_inputs(traces: TraceSet, cache: Path) -> None:
    fused = native(traces, cache, "rmsnorm_cpp", "fused_add_rmsnorm_h100")
    x, residual = torch.randn(2, 9, 100).to(torch.bfloat16)
    weight = torch.randn(100).to(torch.bfloat16)
    expected, total = fused.call(x, residual, weight)
    fused.into(x, residual, weight, x, residual)
    assert torch.equal(x, expected)
    assert torch.equal(residual, total)


def test_cpp_rope_may_rotate_in_place(traces: TraceSet, cache: Path) -> None:
    (name,) = (name for name in NAMES if "d40_rd24" in name)
    rope = native(traces, cache, "rope_cpp", name)
    q, k = torch.randn(6, 4, 40).to(torch.bfloat16), torch.randn(6, 2, 40).to(torch.bfloat16)
    angles, positions = torch.randn(50, 24).to(torch.bfloat16), torch.arange(6)
    q_out, k_out = rope.call(q, k, angles, positions)
    rope.into(q, k, angles, positions, q, k)
    assert torch.equal(q, q_out)
    assert torch.equal(k, k_out)


def test_cpp_rope_refuses_a_position_outside_of_the_cache(traces: TraceSet, cache: Path) -> None:
    (name,) = (name for name in NAMES if "d40_rd24" in name)
    rope = native(traces, cache, "rope_cpp", name)
    q = torch.zeros(2, 1, 40, dtype=torch.bfloat16)
    with pytest.raises(IndexError, match=r"positions\[1\] is 50"):
        rope.call(q, q, torch.zeros(50, 24, dtype=torch.bfloat16), torch.tensor([0, 50]))


def test_cpp_attention_refuses_a_page_outside_of_the_cache(traces: TraceSet, cache: Path) -> None:
    decode = native(traces, cache, "gqa_paged_cpp", "gqa_paged_decode_h4_kv2_d32_ps1")
    q, pool = torch.zeros(1, 4, 32, dtype=torch.bfloat16), torch.zeros(3, 1, 2, 32, dtype=torch.bfloat16)
    indptr = torch.tensor([0, 2], dtype=torch.int32)
    with pytest.raises(IndexError, match=r"kv_indices\[1\] is 3"):
        decode.call(q, pool, pool, indptr, torch.tensor([0, 3], dtype=torch.int32), 0.1)


def test_cpp_latent_attention_refuses_a_page_outside_of_the_cache(traces: TraceSet, cache: Path) -> None:
    (name,) = (name for name in NAMES if name.startswith("mla_paged") and "ckv64" in name)
    decode = native(traces, cache, "mla_paged_cpp", name)
    q, pool = torch.zeros(1, 16, 80, dtype=torch.bfloat16), torch.zeros(3, 1, 80, dtype=torch.bfloat16)
    indptr, indices = torch.tensor([0, 2], dtype=torch.int32), torch.tensor([0, 3], dtype=torch.int32)
    with pytest.raises(IndexError, match=r"kv_indices\[1\] is 3"):
        decode.call(q[..., :64], q[..., 64:], pool[..., :64], pool[..., 64:], indptr, indices, 0.1)


def test_cpp_ragged_attention_refuses_keys_that_are_not_there(traces: TraceSet, cache: Path) -> None:
    prefill = native(traces, cache, "gqa_ragged_cpp", "gqa_ragged_prefill_causal_h4_kv2_d32")
    q, kv = torch.zeros(2, 4, 32, dtype=torch.bfloat16), torch.zeros(3, 2, 32, dtype=torch.bfloat16)
    rows, keys = torch.tensor([0, 2], dtype=torch.int32), torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"kv_indptr\[1\] is 4: it must rise from 0 to at most 3"):
        prefill.call(q, kv, kv, rows, keys, 0.1)


def test_cpp_moe_refuses_an_unknown_expert(traces: TraceSet, cache: Path) -> None:
    moe = native(traces, cache, "moe_cpp", "moe_topk2_e4_h32_i24")
    bf16 = torch.bfloat16
    inputs = (torch.zeros(1, 32, dtype=bf16), torch.zeros(4, 48, 32, dtype=bf16), torch.zeros(4, 32, 24, dtype=bf16))
    with pytest.raises(ValueError, match="topk_ids names expert 4 of 4"):
        moe.call(*inputs, torch.ones(1, 2), torch.tensor([[0, 4]], dtype=torch.int32))


def test_cpp_sampler_draws_differently_in_every_row_and_call(traces: TraceSet, cache: Path) -> None:
    sampler = native(traces, cache, "sampling_cpp", "top_p_sampling_from_probs_v401")
    probs, top_p = torch.full((64, 401), 1 / 401), torch.ones(64)
    first, second = sampler.call(probs, top_p), sampler.call(probs, top_p)
    assert len(first.unique()) > 40
    assert (first == second).sum() < 8


def test_cpp_sampler_breaks_ties_by_index(traces: TraceSet, cache: Path) -> None:
    sampler = native(traces, cache, "sampling_cpp", "top_k_sampling_from_probs_v24")
    samples = sampler.call(torch.full((500, 24), 1 / 24), torch.full((500,), 5, dtype=torch.int32))
    assert samples.unique().tolist() == [0, 1, 2, 3, 4]


def test_cpp_sampler_refuses_a_row_without_mass(traces: TraceSet, cache: Path) -> None:
    sampler = native(traces, cache, "sampling_cpp", "top_k_sampling_from_probs_v24")
    with pytest.raises(ValueError, match="row 0 of probs sums to zero or is not finite"):
        sampler.call(torch.zeros(1, 24), torch.ones(1, dtype=torch.int32))


def test_cpp_draws_from_a_vocabulary_of_real_size(traces: TraceSet, cache: Path) -> None:
    """Large enough for block maxima and for several blocks in the walk, which small vocabularies never reach."""
    vocab, rows = 32000, 4000
    definition = ops.ALL["top_k_top_p_sampling"].definition(vocab_size=vocab)
    solution = SOURCES["sampling_cpp"].solution_for(definition, "top_k_top_p_sampling")
    probs = torch.softmax(torch.randn(vocab) * 2, 0)
    filters = torch.full((rows,), 40, dtype=torch.int32), torch.full((rows,), 0.9)
    samples = build(solution, definition, cache).call(probs.expand(rows, vocab), *filters)
    want = solution_cases.target(probs, 40, 0.9)
    assert solution_cases._distribution_problem(samples, want) is None
    assert len(samples.unique()) > 10


def test_a_bias_of_a_sampler_is_seen() -> None:
    want = solution_cases.target(torch.tensor([0.5, 0.3, 0.2]), None, 1.0)
    honest = torch.multinomial(want, 4000, replacement=True)
    assert solution_cases._distribution_problem(honest, want) is None
    biased = torch.multinomial(torch.tensor([0.6, 0.2, 0.2]), 4000, replacement=True)
    assert "chi-square" in str(solution_cases._distribution_problem(biased, want))


def test_sources_are_found_by_name() -> None:
    assert all(isinstance(source, Source) for source in SOURCES.values())
    assert len(SOURCES) == len(find_sources()), "two shipped sources share a name"
