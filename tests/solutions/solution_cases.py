"""Definitions, inputs and verdicts for the shipped kernels; also run as a script, for Triton's interpreter.

As a script: ``solution_cases.py DATASET CACHE SOURCE`` prints a JSON line a definition: {"definition": problem | null}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from fib_plugin import ops
from fib_plugin.build import Runnable, build
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import Definition, Solution

Inputs = tuple[Any, ...]

#: Family -> constants of its definitions. Odd sizes on purpose: tails are where kernels go wrong.
CONSTANTS: dict[str, list[dict[str, Any]]] = {
    "gemm": [{"n": 48, "k": 64}, {"n": 37, "k": 100}, {"n": 40, "k": 72, "dtype": "float32"}],
    "gemm_fp8_block_scale": [
        {"n": 200, "k": 300},
        {"n": 37, "k": 100, "dtype": "float16"},
        {"n": 256, "k": 256, "ue8m0": True},
    ],
    "gemm_fp8_rowwise": [{"n": 48, "k": 64}, {"n": 37, "k": 300, "dtype": "float32"}],
    "gemm_fp8_tensorwise": [{"n": 48, "k": 64}, {"n": 37, "k": 300, "dtype": "float16"}],
    "gemm_fp8_static": [{"n": 48, "k": 64}, {"n": 37, "k": 300}],
    "rmsnorm": [
        {"hidden_size": 128, "eps": 1e-5},
        {"hidden_size": 100, "eps": 1e-5},
        {"hidden_size": 72, "eps": 1e-6, "dtype": "float32"},
    ],
    "fused_add_rmsnorm": [
        {"hidden_size": 128, "eps": 1e-5},
        {"hidden_size": 100, "eps": 1e-5},
        {"hidden_size": 72, "eps": 1e-6, "dtype": "float32"},
    ],
    "silu_and_mul": [{"d": 64}, {"d": 45}, {"d": 24, "dtype": "float32"}],
    "rope": [
        {"head_dim": 64, "rotary_dim": 64, "is_neox": True},
        {"head_dim": 40, "rotary_dim": 24, "is_neox": True, "cache_dtype": "bfloat16"},
        {"head_dim": 32, "rotary_dim": 32, "is_neox": False},
        {"head_dim": 24, "rotary_dim": 12, "is_neox": False, "dtype": "float32"},
    ],
    "gqa_paged_decode": [
        {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 32},
        {"num_qo_heads": 3, "num_kv_heads": 1, "head_dim": 20, "page_size": 16},
        {"num_qo_heads": 4, "num_kv_heads": 4, "head_dim": 16, "dtype": "float32"},
    ],
    "gqa_paged_prefill": [
        {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 32},
        {"num_qo_heads": 3, "num_kv_heads": 1, "head_dim": 20, "page_size": 16},
        {"num_qo_heads": 4, "num_kv_heads": 4, "head_dim": 16, "dtype": "float32"},
    ],
    "gqa_ragged_prefill": [
        {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 32},
        {"num_qo_heads": 3, "num_kv_heads": 1, "head_dim": 20},
        {"num_qo_heads": 4, "num_kv_heads": 4, "head_dim": 16, "dtype": "float32"},
    ],
    "mla_paged_decode": [
        {"num_qo_heads": 16, "head_dim_ckv": 64, "head_dim_kpe": 16},
        {"num_qo_heads": 70, "head_dim_ckv": 40, "head_dim_kpe": 12, "page_size": 16},
        {"num_qo_heads": 3, "head_dim_ckv": 32, "head_dim_kpe": 16, "dtype": "float32"},
    ],
    "moe": [
        {"topk": 2, "num_experts": 4, "hidden_size": 32, "intermediate_size": 24},
        {"topk": 1, "num_experts": 3, "hidden_size": 20, "intermediate_size": 12, "dtype": "float32"},
    ],
    "moe_fp8_block_scale": [
        {"topk": 2, "num_experts": 4, "hidden_size": 200, "intermediate_size": 136},
        {"topk": 2, "num_experts": 3, "hidden_size": 128, "intermediate_size": 128, "ue8m0": True},
        {"topk": 1, "num_experts": 3, "hidden_size": 20, "intermediate_size": 12, "dtype": "float32"},
    ],
    "top_k_sampling": [{"vocab_size": 24}, {"vocab_size": 401}],
    "top_p_sampling": [{"vocab_size": 24}, {"vocab_size": 401}],
    "top_k_top_p_sampling": [{"vocab_size": 24}, {"vocab_size": 401}],
}


def definitions() -> list[Definition]:
    return [ops.ALL[family].definition(**constants) for family, many in CONSTANTS.items() for constants in many]


def fill(root: Path) -> None:
    """Make a dataset of all cases' definitions."""
    traces = TraceSet(root)
    for definition in definitions():
        traces.add_definition(definition)


def problem_of(
    solution: Solution, definition: Definition, cache: Path, small: bool = False, device: str = "cpu"
) -> str | None:
    """What is wrong with a solution, or None. ``small`` for interpreters: fewer shapes and draws."""
    torch.manual_seed(0)
    with torch.device(device):
        return _problem_of(solution, definition, cache, small)


def _problem_of(solution: Solution, definition: Definition, cache: Path, small: bool) -> str | None:
    runnable = build(solution, definition, cache)
    spec = ops.family_of(definition)
    assert spec is not None
    if spec.evaluator == "sampling":
        return _sampling_problem(runnable, definition, spec.family, small)
    reference = run_reference(definition)
    for label, inputs in _INPUTS[spec.family](definition, small):
        before = [value.clone() if isinstance(value, torch.Tensor) else value for value in inputs]
        outputs = _poisoned(definition, inputs)
        runnable.into(*inputs, *outputs)
        for name, value, copy in zip(definition.inputs, inputs, before, strict=True):
            if isinstance(value, torch.Tensor) and not torch.equal(value, copy):
                return f"{label}: the input {name} was changed"
        expected = reference(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for name, got, want in zip(definition.outputs, outputs, expected, strict=True):
            wrong = mismatch(definition, got, want)
            if wrong:
                return f"{label}: {name}: {wrong}"
    return None


def run_reference(definition: Definition) -> Callable[..., Any]:
    namespace: dict[str, Any] = {}
    exec(definition.reference, namespace)
    run: Callable[..., Any] = namespace["run"]
    return run


def mismatch(definition: Definition, got: torch.Tensor, want: torch.Tensor) -> str | None:
    tolerance = ops.tolerance(definition)
    if "_fp8_" in definition.name:
        # Bench lets pass who rounds otherwise than the definition; ours round as it does, but for what lies in the
        # dtype of the activations between the two products of experts.
        tolerance = replace(tolerance, matched_ratio=0.97 if definition.op_type == "moe" else 0.999)
    same_infinity = torch.isinf(want) & (got == want)
    close = (got.float() - want.float()).abs() <= tolerance.atol + tolerance.rtol * want.float().abs()
    ok = same_infinity | (close & torch.isfinite(want))
    share = int(ok.sum()) / ok.numel() if ok.numel() else 1.0  # a GPU's mean of ones may fall short of one
    return None if share >= tolerance.matched_ratio else f"only {share:.2%} of the elements agree"


def _poisoned(definition: Definition, inputs: Inputs) -> list[torch.Tensor]:
    """Outputs full of NaN, so that what a kernel leaves out cannot agree by accident."""
    shapes = [None if not isinstance(value, torch.Tensor) else tuple(value.shape) for value in inputs]
    axes = definition.axis_values(shapes)
    outputs = []
    for spec, shape in zip(definition.outputs.values(), definition.output_shapes(axes), strict=True):
        assert shape is not None
        outputs.append(torch.full(shape, float("nan"), dtype=getattr(torch, str(spec.dtype))))
    return outputs


def _dtype(definition: Definition) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, str(next(iter(definition.inputs.values())).dtype))
    return dtype


def _gap(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """Rows that do not touch, as views into a larger buffer are: between them lies NaN."""
    whole = torch.full((*shape[:-1], shape[-1] + 16), float("nan"), dtype=dtype)
    whole[..., : shape[-1]] = torch.randn(*shape) * scale
    return whole[..., : shape[-1]]


def _sizes(small: bool) -> tuple[int, ...]:
    return (1, 5) if small else (1, 3, 17, 70)


def _gemm(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    n, k, dtype = definition.const_axes["N"], definition.const_axes["K"], _dtype(definition)
    for m in _sizes(small):
        yield f"M={m}", (_gap(m, k, dtype=dtype), _gap(n, k, dtype=dtype, scale=k**-0.5))


def _fp8(*shape: int) -> torch.Tensor:
    """As _gap, in fp8."""
    whole = torch.full((*shape[:-1], shape[-1] + 16), float("nan"))
    whole[..., : shape[-1]] = (torch.randn(*shape) * 100.0).clamp(-448, 448)
    return whole.to(torch.float8_e4m3fn)[..., : shape[-1]]


def _gemm_fp8(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    n, k, dtype = definition.const_axes["N"], definition.const_axes["K"], _dtype(definition)
    usual = 1.0 / (100 * k**0.5)
    for m in _sizes(small):
        a = _gap(m, k, dtype=dtype)
        a *= (torch.arange(m) % 3 + 0.5)[:, None].to(dtype)  # rows whose scales are not interchangeable
        made: dict[str, torch.Tensor] = {
            "A": a,
            "A_scale": torch.tensor([3.0 / 448]),
            "B": _fp8(n, k),
            # Engines hand over one number for all rows as a view that repeats it.
            "B_row_scales": (torch.rand(n) + 0.5) * usual if m > 1 else torch.tensor([usual]).expand(n),
            "B_scale": torch.tensor([usual]),
        }
        if "n_blocks" in definition.const_axes:
            blocks = definition.const_axes["n_blocks"], definition.const_axes["k_blocks"]
            made["B_block_scales"] = (torch.rand(*blocks) + 0.5) * usual
        yield f"M={m}", tuple(made[name] for name in definition.inputs)


def _norm(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    hidden, dtype = definition.const_axes["hidden_size"], _dtype(definition)
    for rows in _sizes(small):
        for scale in (1.0, 1e-3):  # rows so small that eps decides
            weight = torch.randn(hidden).to(dtype)
            x = [_gap(rows, hidden, dtype=dtype, scale=scale) for _ in range(len(definition.inputs) - 1)]
            yield f"batch_size={rows} x{scale}", (*x, weight)


def _silu(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    d, dtype = definition.const_axes["d"], _dtype(definition)
    for rows in _sizes(small):
        x = _gap(rows, 2 * d, dtype=dtype, scale=4.0)
        x[:, 0], x[:, 1] = 95.0, -95.0  # where a careless exponential overflows
        yield f"batch_size={rows}", (x,)


def _rope(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    d, rotary, dtype = definition.const_axes["head_dim"], definition.const_axes["rotary_dim"], _dtype(definition)
    cache = torch.randn(40, rotary).to(getattr(torch, str(definition.inputs["cos_sin_cache"].dtype)))
    for tokens, heads, kv_heads in ((1, 4, 2), (5, 3, 1)) if small else ((1, 4, 2), (9, 3, 1), (70, 8, 8)):
        qkv = torch.randn(tokens, (heads + 2 * kv_heads) * d).to(dtype)
        q, k, _ = qkv.split([heads * d, kv_heads * d, kv_heads * d], dim=-1)
        yield (
            f"num_tokens={tokens}, q and k inside qkv",
            (q.view(tokens, heads, d), k.view(tokens, kv_heads, d), cache, torch.randint(0, 40, (tokens,))),
        )


def _attention(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    const, dtype = definition.const_axes, _dtype(definition)
    heads, kv_heads, d, page_size = (const[a] for a in ("num_qo_heads", "num_kv_heads", "head_dim", "page_size"))
    prefill = "qo_indptr" in definition.inputs
    for pages in ((1,), (3, 70, 0, 9)) if small else ((1,), (3, 70, 0, 200), (5, 5, 5, 5, 130)):
        used, indptr = sum(pages), [0, *accumulate(pages)]
        whole = torch.randn(used + 3, 2, page_size, kv_heads, d).to(dtype)  # keys and values of a page side by side
        k_cache, v_cache = whole[:, 0], whole[:, 1]
        indices = torch.randperm(used + 3)[:used].int()
        news = [min(count * page_size, (1, 33, 4, 7)[i % 4]) if prefill else 1 for i, count in enumerate(pages)]
        q = torch.randn(sum(news), (heads + 2) * d).to(dtype)[:, : heads * d].view(sum(news), heads, d)
        lengths = [torch.tensor([0, *accumulate(news)], dtype=torch.int32)] if prefill else []
        yield (
            f"pages={pages}, new tokens={news}",
            (q, k_cache, v_cache, *lengths, torch.tensor(indptr, dtype=torch.int32), indices, d**-0.5),
        )


def _ragged(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    const, dtype = definition.const_axes, _dtype(definition)
    heads, kv_heads, d = (const[a] for a in ("num_qo_heads", "num_kv_heads", "head_dim"))
    few: tuple[tuple[tuple[int, int], ...], ...] = (((1, 1),), ((3, 3), (70, 130), (0, 9), (0, 0), (5, 70)))
    for lengths in few if small else (*few, ((260, 300), (4, 4), (33, 200))):
        new, total = (sum(column) for column in zip(*lengths, strict=True))
        kv = torch.randn(total + 2, 2, kv_heads, d).to(dtype)  # keys and values of a token side by side
        # Two query rows and two keys at the end belong to no request.
        q = torch.randn(new + 2, (heads + 2) * d).to(dtype)[:, : heads * d].view(new + 2, heads, d)
        indptr = [torch.tensor([0, *accumulate(column)], dtype=torch.int32) for column in zip(*lengths, strict=True)]
        yield f"(new, all) tokens={lengths}", (q, kv[:, 0], kv[:, 1], *indptr, d**-0.5)


def _mla(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    const, dtype = definition.const_axes, _dtype(definition)
    heads, ckv, kpe, size = (const[a] for a in ("num_qo_heads", "head_dim_ckv", "head_dim_kpe", "page_size"))
    # One long request alone is shared out; of many, each is done at once.
    for pages in ((130,), (3, 70, 0, 9)) if small else ((1,), (130,), (3, 70, 0, 200), (5,) * 150):
        used = sum(pages)
        whole = torch.randn(used + 3, size, ckv + kpe).to(dtype)  # as engines keep them: one row, two views
        q = torch.randn(len(pages), heads, ckv + kpe).to(dtype)
        indptr = torch.tensor([0, *accumulate(pages)], dtype=torch.int32)
        yield (
            f"pages={pages[:5]}",
            (
                q[..., :ckv],
                q[..., ckv:],
                whole[..., :ckv],
                whole[..., ckv:],
                indptr,
                torch.randperm(used + 3)[:used].int(),
                (ckv + kpe) ** -0.5,
            ),
        )


def _moe(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    axes = ("topk", "num_experts", "hidden_size", "intermediate_size")
    topk, experts, hidden, inner = (definition.const_axes[axis] for axis in axes)
    dtype = _dtype(definition)
    for tokens in _sizes(small):
        ids = torch.rand(tokens, experts).topk(topk).indices.int()
        if tokens > 1:
            ids[ids == experts - 1] = 0  # an expert without a token
        yield (
            f"num_tokens={tokens}",
            (
                _gap(tokens, hidden, dtype=dtype),
                (torch.randn(experts, 2 * inner, hidden) / hidden**0.5).to(dtype),
                (torch.randn(experts, hidden, inner) / inner**0.5).to(dtype),
                torch.rand(tokens, topk),
                ids,
            ),
        )


def _moe_fp8(definition: Definition, small: bool) -> Iterator[tuple[str, Inputs]]:
    const = definition.const_axes
    experts, hidden, inner = (const[axis] for axis in ("num_experts", "hidden_size", "intermediate_size"))
    for label, (x, _, _, weights, ids) in _moe(definition, small):
        made: dict[str, Any] = {"hidden_states": x, "topk_weights": weights, "topk_ids": ids}
        for name, rows, columns in (("w13", 2 * inner, hidden), ("w2", hidden, inner)):
            made[name] = _fp8(experts, rows, columns)
            blocks = experts, -(-rows // 128), -(-columns // 128)
            made[f"{name}_block_scales"] = (torch.rand(*blocks) + 0.5) / (100 * columns**0.5)
        yield label, tuple(made[name] for name in definition.inputs)


_INPUTS: dict[str, Callable[[Definition, bool], Iterator[tuple[str, Inputs]]]] = {
    "gemm": _gemm,
    "gemm_fp8_block_scale": _gemm_fp8,
    "gemm_fp8_rowwise": _gemm_fp8,
    "gemm_fp8_tensorwise": _gemm_fp8,
    "gemm_fp8_static": _gemm_fp8,
    "rmsnorm": _norm,
    "fused_add_rmsnorm": _norm,
    "silu_and_mul": _silu,
    "rope": _rope,
    "gqa_paged_decode": _attention,
    "gqa_paged_prefill": _attention,
    "gqa_ragged_prefill": _ragged,
    "mla_paged_decode": _mla,
    "moe": _moe,
    "moe_fp8_block_scale": _moe_fp8,
}


def target(probs: torch.Tensor, k: int | None, p: float | None) -> torch.Tensor:
    """The distribution that a sampler must draw from, worked out in double precision."""
    values, order = probs.double().sort(descending=True, stable=True)
    rank = torch.arange(len(values))
    if k is not None and 0 < k < len(values):
        values = values.masked_fill(rank >= k, 0.0)
    if k is not None:
        values = values / values.sum()
    if p is not None:
        before = values.cumsum(0) - values
        values = values.masked_fill((before >= p) & (rank > 0), 0.0)
    return torch.zeros_like(values).scatter(0, order, values / values.sum())


def _sampling_problem(runnable: Runnable, definition: Definition, family: str, small: bool) -> str | None:
    vocab = definition.const_axes["vocab_size"]
    filters_tried = [(5, 0.8), (0, 0.6), (10 * vocab, 0.0), (1, 0.5), (vocab // 3, 1.0), (3, 2.0)]
    draws = 20000 if vocab < 100 else 5000
    if small:
        filters_tried, draws = filters_tried[:3], 30 if vocab < 100 else 3
    flat, peaked = (torch.softmax(torch.randn(vocab) * sharpness, 0) for sharpness in (0.3, 3.0))
    for label, probs in (("peaked", peaked), ("flat", flat))[: 1 if small else 2]:
        for k, p in filters_tried:
            wide = torch.full((draws, vocab + 7), float("nan"))
            wide[:, :vocab] = probs
            filters: list[torch.Tensor] = []
            if "top_k" in definition.inputs:
                filters.append(torch.full((draws,), k, dtype=torch.int32))
            if "top_p" in definition.inputs:
                filters.append(torch.full((draws,), p))
            samples = torch.full((draws,), -1, dtype=torch.int64)
            runnable.into(wide[:, :vocab], *filters, samples)
            want = target(
                probs, k if "top_k" in definition.inputs else None, p if "top_p" in definition.inputs else None
            )
            wrong = _distribution_problem(samples, want)
            if wrong:
                return f"{family} {label} k={k} p={p}: {wrong}"
    return None


def _distribution_problem(samples: torch.Tensor, want: torch.Tensor) -> str | None:
    if not ((samples >= 0) & (samples < len(want))).all():
        return "a sample is no token"
    counts = torch.bincount(samples, minlength=len(want)).double()
    if counts[want == 0].sum():
        return f"{int(counts[want == 0].sum())} draws are outside of the nucleus"
    expected = want * len(samples)
    often = expected >= 5
    expected = torch.cat((expected[often], expected[~often].sum()[None]))
    counts = torch.cat((counts[often], counts[~often].sum()[None]))
    counts, expected = counts[expected > 1e-9], expected[expected > 1e-9]
    chi = ((counts - expected) ** 2 / expected).sum().item()
    freedom = len(expected) - 1
    # Mean and deviation of the chi-square law; six deviations, and some room for its tail at few degrees of freedom.
    limit = freedom + 6 * (2 * freedom) ** 0.5 + 12
    return None if chi <= limit else f"chi-square {chi:.0f} at {freedom} degrees of freedom"


def main(root: str, cache: str, source: str) -> None:
    traces = TraceSet.from_path(root)
    for name, definition in traces.definitions.items():
        solution = traces.get_solution(f"{source}__{name}")
        if solution is not None:
            print(json.dumps({name: problem_of(solution, definition, Path(cache), small=True)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
