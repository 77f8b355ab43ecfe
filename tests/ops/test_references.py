"""References of all families, run on small inputs and held against formulas written independently of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fib_plugin import ops

LOOSE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DTYPES = pytest.mark.parametrize("dtype", list(LOOSE), ids=str)


def reference(family: str, **constants: Any) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(ops.ALL[family].definition(**constants).reference, scope)
    return scope["run"]  # type: ignore[no-any-return]


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    bound = LOOSE[found.dtype]
    torch.testing.assert_close(found.double(), expected.double(), atol=bound, rtol=bound)


@DTYPES
def test_gemm_is_a_linear_layer(dtype: torch.dtype) -> None:
    a, b = normal(5, 8, dtype=dtype), normal(6, 8, dtype=dtype, seed=1)
    out = reference("gemm", n=6, k=8, dtype=name(dtype))(a, b)
    assert out.dtype == dtype
    assert_near(out, F.linear(a.double(), b.double()))


@DTYPES
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_rmsnorm_is_torchs(dtype: torch.dtype, eps: float) -> None:
    x, weight = normal(5, 8, dtype=dtype), normal(8, dtype=dtype, seed=1)
    out = reference("rmsnorm", hidden_size=8, eps=eps, dtype=name(dtype))(x, weight)
    assert out.dtype == dtype
    assert_near(out, F.rms_norm(x.double(), (8,), weight.double(), eps))


@DTYPES
def test_fused_add_rmsnorm_adds_and_then_normalises_the_unrounded_sum(dtype: torch.dtype) -> None:
    x, residual, weight = (normal(5, 8, dtype=dtype), normal(5, 8, dtype=dtype, seed=1), normal(8, dtype=dtype, seed=2))
    kept = x.clone(), residual.clone()
    output, summed = reference("fused_add_rmsnorm", hidden_size=8, eps=1e-5, dtype=name(dtype))(x, residual, weight)
    total = x.double() + residual.double()
    assert (output.dtype, summed.dtype) == (dtype, dtype)
    assert_near(summed, total)
    assert_near(output, F.rms_norm(total, (8,), weight.double(), 1e-5))
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])


@DTYPES
def test_silu_and_mul_gates_the_second_half_by_the_first(dtype: torch.dtype) -> None:
    x = normal(5, 12, dtype=dtype)
    out = reference("silu_and_mul", d=6, dtype=name(dtype))(x)
    assert out.dtype == dtype
    assert_near(out, F.silu(x.double()[:, :6]) * x.double()[:, 6:])


# ---- rope -----------------------------------------------------------------------------------------------------------


def rotated(x: torch.Tensor, angles: torch.Tensor, neox: bool) -> torch.Tensor:
    """Each pair of a head turned by its angle, one scalar at a time."""
    out = x.double().clone()
    pairs = angles.shape[1]
    for token in range(x.shape[0]):
        for head in range(x.shape[1]):
            for pair in range(pairs):
                first, second = (pair, pair + pairs) if neox else (2 * pair, 2 * pair + 1)
                a, b = float(x[token, head, first]), float(x[token, head, second])
                cos, sin = math.cos(angles[token, pair]), math.sin(angles[token, pair])
                out[token, head, first] = a * cos - b * sin
                out[token, head, second] = a * sin + b * cos
    return out


@pytest.mark.parametrize("is_neox", [True, False], ids=["neox", "gptj"])
@pytest.mark.parametrize("rotary_dim", [8, 4])
@DTYPES
def test_rope_turns_each_pair_by_the_angle_of_its_position(is_neox: bool, rotary_dim: int, dtype: torch.dtype) -> None:
    q, k = normal(3, 4, 8, dtype=dtype), normal(3, 2, 8, dtype=dtype, seed=1)
    positions = torch.tensor([0, 9, 4])
    frequencies = 1.0 / 10000 ** (torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
    angles = torch.arange(16, dtype=torch.float64)[:, None] * frequencies
    cache = torch.cat((angles.cos(), angles.sin()), dim=-1).float()
    run = reference("rope", head_dim=8, rotary_dim=rotary_dim, is_neox=is_neox, dtype=name(dtype))
    q_out, k_out = run(q, k, cache, positions)
    assert (q_out.dtype, k_out.dtype) == (dtype, dtype)
    assert_near(q_out, rotated(q, angles[positions], is_neox))
    assert_near(k_out, rotated(k, angles[positions], is_neox))


def test_rope_leaves_what_is_beyond_rotary_dim_bit_for_bit() -> None:
    q = normal(3, 4, 8, dtype=torch.bfloat16)
    cache = torch.ones(16, 4)
    q_out, _ = reference("rope", head_dim=8, rotary_dim=4, is_neox=True)(q, q, cache, torch.arange(3))
    assert torch.equal(q_out[..., 4:], q[..., 4:])


# ---- attention ------------------------------------------------------------------------------------------------------

HEADS, KV_HEADS, DIM, SCALE = 4, 2, 8, 0.3


def pool(pages: int, page_size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (pages, page_size, KV_HEADS, DIM)
    return normal(*shape, dtype=dtype, seed=1), normal(*shape, dtype=dtype, seed=2)


def indptr(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def sdpa(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One request: torch's attention aligned to the end, and the base-2 log-sum-exp of its scores."""
    q, keys, values = (x.double().transpose(0, 1) for x in (q, keys, values))
    visible = torch.ones(q.shape[1], keys.shape[1], dtype=torch.bool).tril(keys.shape[1] - q.shape[1])
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible, scale=SCALE, enable_gqa=True)
    scores = q @ keys.repeat_interleave(HEADS // KV_HEADS, dim=0).transpose(1, 2) * SCALE
    lse = torch.logsumexp(scores.masked_fill(~visible, -math.inf), dim=-1) / math.log(2)
    return out.transpose(0, 1), lse.transpose(0, 1)


def expected(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_lengths: list[int], pages: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [
        sdpa(part, k[own].flatten(0, 1), v[own].flatten(0, 1))
        for part, own in zip(q.split(q_lengths), pages, strict=True)
    ]
    return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])


def pages_of(lengths: list[int], pages: int) -> list[torch.Tensor]:
    order = torch.randperm(pages, generator=torch.Generator().manual_seed(3))
    return list(order[: sum(lengths)].split(lengths))


@pytest.mark.parametrize("page_size", [1, 4])
@DTYPES
def test_decode_is_torchs_attention_over_the_pages_of_each_request(page_size: int, dtype: torch.dtype) -> None:
    lengths = [5, 1, 9]
    q = normal(3, HEADS, DIM, dtype=dtype)
    k, v = pool(32, page_size, dtype)
    own = pages_of(lengths, 32)
    constants = {"num_qo_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": DIM, "page_size": page_size}
    run = reference("gqa_paged_decode", **constants, dtype=name(dtype))
    out, lse = run(q, k, v, indptr(lengths), torch.cat(own).to(torch.int32), SCALE)
    want, want_lse = expected(q, k, v, [1, 1, 1], own)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    assert_near(out, want)
    assert_near(lse, want_lse)


@DTYPES
def test_prefill_is_causal_and_aligned_to_the_end(dtype: torch.dtype) -> None:
    q_lengths, kv_lengths = [4, 1, 3], [4, 6, 8]
    q = normal(8, HEADS, DIM, dtype=dtype)
    k, v = pool(32, 1, dtype)
    own = pages_of(kv_lengths, 32)
    run = reference("gqa_paged_prefill", num_qo_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, dtype=name(dtype))
    out, lse = run(q, k, v, indptr(q_lengths), indptr(kv_lengths), torch.cat(own).to(torch.int32), SCALE)
    want, want_lse = expected(q, k, v, q_lengths, own)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    assert_near(out, want)
    assert_near(lse, want_lse)


def test_prefill_of_one_token_each_is_decode() -> None:
    lengths = [5, 2]
    q, (k, v) = normal(2, HEADS, DIM), pool(16, 1, torch.float32)
    lists = indptr(lengths), torch.cat(pages_of(lengths, 16)).to(torch.int32)
    constants = {"num_qo_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": DIM, "dtype": "float32"}
    decoded = reference("gqa_paged_decode", **constants)(q, k, v, *lists, SCALE)
    filled = reference("gqa_paged_prefill", **constants)(q, k, v, indptr([1, 1]), *lists, SCALE)
    assert torch.equal(decoded[0], filled[0])
    assert torch.equal(decoded[1], filled[1])


def test_a_request_without_keys_is_zero_with_an_lse_of_minus_infinity() -> None:
    q, (k, v) = normal(2, HEADS, DIM), pool(8, 1, torch.float32)
    run = reference("gqa_paged_decode", num_qo_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, dtype="float32")
    out, lse = run(q, k, v, indptr([0, 3]), torch.tensor([4, 2, 7], dtype=torch.int32), SCALE)
    assert torch.equal(out[0], torch.zeros(HEADS, DIM))
    assert torch.equal(lse[0], torch.full((HEADS,), -math.inf))
    assert torch.isfinite(lse[1]).all()


# ---- experts --------------------------------------------------------------------------------------------------------


@DTYPES
def test_moe_is_a_loop_over_tokens_and_their_experts(dtype: torch.dtype) -> None:
    tokens, topk, experts, hidden, inner = 6, 2, 4, 8, 5
    x = normal(tokens, hidden, dtype=dtype)
    w13, w2 = (
        normal(experts, 2 * inner, hidden, dtype=dtype, seed=1),
        normal(experts, hidden, inner, dtype=dtype, seed=2),
    )
    weights = normal(tokens, topk, seed=3).softmax(dim=-1)
    ids = torch.stack([torch.randperm(experts)[:topk] for _ in range(tokens)]).to(torch.int32)
    constants = {"topk": topk, "num_experts": experts, "hidden_size": hidden, "intermediate_size": inner}
    out = reference("moe", **constants, dtype=name(dtype))(x, w13, w2, weights, ids)
    want = torch.zeros(tokens, hidden, dtype=torch.float64)
    for token in range(tokens):
        for slot in range(topk):
            expert = int(ids[token, slot])
            gate, up = (w13[expert].double() @ x[token].double()).chunk(2)
            want[token] += float(weights[token, slot]) * (w2[expert].double() @ (F.silu(gate) * up))
    assert out.dtype == dtype
    assert_near(out, want)


def test_moe_counts_an_expert_chosen_twice_twice() -> None:
    run = reference("moe", topk=2, num_experts=2, hidden_size=4, intermediate_size=3, dtype="float32")
    x, w13, w2 = normal(1, 4), normal(2, 6, 4, seed=1), normal(2, 4, 3, seed=2)
    half = torch.tensor([[0.5, 0.5]])
    twice = run(x, w13, w2, half, torch.tensor([[1, 1]], dtype=torch.int32))
    once = run(x, w13, w2, torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 0]], dtype=torch.int32))
    assert_near(twice, once)


# ---- sampling -------------------------------------------------------------------------------------------------------

PROBS = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
DRAWS = 4000


def drawn(family: str, **parameters: float) -> torch.Tensor:
    """How often each token came, of many draws from PROBS."""
    run = reference(family, vocab_size=5)
    dtypes = {"top_k": torch.int32, "top_p": torch.float32}
    values = [torch.full((DRAWS,), value, dtype=dtypes[key]) for key, value in parameters.items()]
    torch.manual_seed(0)
    samples = run(PROBS.expand(DRAWS, 5), *values)
    assert samples.dtype == torch.int64
    assert samples.shape == (DRAWS,)
    return torch.bincount(samples, minlength=5) / DRAWS


@pytest.mark.parametrize(
    ("family", "parameters", "support"),
    [
        ("top_k_sampling", {"top_k": 1}, {1}),
        ("top_k_sampling", {"top_k": 3}, {1, 3, 4}),
        ("top_k_sampling", {"top_k": 5}, {0, 1, 2, 3, 4}),
        ("top_k_sampling", {"top_k": 99}, {0, 1, 2, 3, 4}),
        ("top_k_sampling", {"top_k": 0}, {0, 1, 2, 3, 4}),
        ("top_p_sampling", {"top_p": 0.0}, {1}),
        ("top_p_sampling", {"top_p": 0.39}, {1}),
        ("top_p_sampling", {"top_p": 0.41}, {1, 3}),
        ("top_p_sampling", {"top_p": 0.84}, {1, 3, 4}),
        ("top_p_sampling", {"top_p": 1.0}, {0, 1, 2, 3, 4}),
        # Of the two kept by k, 0.4 and 0.25, the first has 0.615 of the mass: p counts on the renormalised rest.
        ("top_k_top_p_sampling", {"top_k": 2, "top_p": 0.6}, {1}),
        ("top_k_top_p_sampling", {"top_k": 2, "top_p": 0.63}, {1, 3}),
        ("top_k_top_p_sampling", {"top_k": 3, "top_p": 1.0}, {1, 3, 4}),
        ("top_k_top_p_sampling", {"top_k": 5, "top_p": 0.41}, {1, 3}),
    ],
)
def test_sampling_draws_from_the_kept_tokens_in_proportion(
    family: str, parameters: dict[str, float], support: set[int]
) -> None:
    found = drawn(family, **parameters)
    kept = torch.tensor([float(token in support) for token in range(5)]) * PROBS
    assert {token for token in range(5) if found[token] > 0} == support
    # Five standard errors of a share estimated from so many draws.
    torch.testing.assert_close(found, kept / kept.sum(), atol=5 * 0.5 / DRAWS**0.5, rtol=0)


def test_each_row_is_filtered_by_its_own_parameters() -> None:
    run = reference("top_k_sampling", vocab_size=5)
    samples = torch.stack([run(PROBS.expand(2, 5), torch.tensor([1, 5], dtype=torch.int32)) for _ in range(60)])
    assert set(samples[:, 0].tolist()) == {1}
    assert len(set(samples[:, 1].tolist())) > 2


def test_ragged_prefill_is_paged_prefill_of_the_same_tokens() -> None:
    constants: dict[str, Any] = {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 8, "dtype": "float32"}
    q, k, v = normal(6, 4, 8), normal(12, 2, 8, seed=1), normal(12, 2, 8, seed=2)
    queries, lengths = torch.tensor([0, 2, 2, 6], dtype=torch.int32), torch.tensor([0, 5, 5, 12], dtype=torch.int32)
    found = reference("gqa_ragged_prefill", **constants)(q, k, v, queries, lengths, 0.3)
    pages = torch.arange(12, dtype=torch.int32)
    paged = reference("gqa_paged_prefill", **constants)(q, k[:, None], v[:, None], queries, lengths, pages, 0.3)
    assert_near(found[0], paged[0])
    assert_near(found[1], paged[1])


@DTYPES
def test_mla_decode_attends_with_both_parts_and_mixes_the_latent(dtype: torch.dtype) -> None:
    heads, latent, rotary, lengths = 3, 16, 4, (4, 0, 7)
    run = reference("mla_paged_decode", num_qo_heads=heads, head_dim_ckv=latent, head_dim_kpe=rotary, dtype=name(dtype))
    q, q_pe = normal(3, heads, latent, dtype=dtype), normal(3, heads, rotary, dtype=dtype, seed=1)
    ckv, kpe = normal(20, 1, latent, dtype=dtype, seed=2), normal(20, 1, rotary, dtype=dtype, seed=3)
    indptr = torch.tensor([0, 4, 4, 11], dtype=torch.int32)
    pages = torch.randperm(20, generator=torch.Generator().manual_seed(4))[:11].to(torch.int32)
    output, lse = run(q, q_pe, ckv, kpe, indptr, pages, 0.2)
    assert output.dtype == dtype
    for row, length in enumerate(lengths):
        if not length:
            assert not output[row].any()
            assert bool(lse[row].isneginf().all())
            continue
        chosen = pages[int(indptr[row]) : int(indptr[row + 1])].long()
        keys = torch.cat((ckv[chosen, 0], kpe[chosen, 0]), dim=-1).double()
        query = torch.cat((q[row], q_pe[row]), dim=-1).double()
        expected = F.scaled_dot_product_attention(
            query[:, None], keys.expand(heads, -1, -1), ckv[chosen, 0].double().expand(heads, -1, -1), scale=0.2
        )
        assert_near(output[row], expected[:, 0])
        weights = (query @ keys.T * 0.2).exp().sum(dim=-1)
        torch.testing.assert_close(lse[row].double(), weights.log2(), atol=1e-4, rtol=1e-4)
