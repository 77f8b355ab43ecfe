"""Compares numbers: |y - ref| <= atol + rtol * |ref| for all but a stated share of the elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fib_plugin.bench.evaluators.verdict import Verdict, wrong
from fib_plugin.ops import Tolerance
from fib_plugin.schema import Correctness, Definition, EvaluationStatus

if TYPE_CHECKING:
    import torch

_SHOWN = 4


def judge(
    definition: Definition, outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: Tolerance
) -> Verdict:
    """Compare outputs whose form is right; there may be fewer than expected ones (see check_form)."""
    worst_absolute = worst_relative = 0.0
    matched = 1.0
    complaints = []
    for name, output, wanted in zip(definition.outputs, outputs, expected, strict=False):
        if not wanted.numel():
            continue
        absolute, relative, share, complaint = _compare(name, output, wanted, tolerance)
        worst_absolute, worst_relative = max(worst_absolute, absolute), max(worst_relative, relative)
        matched = min(matched, share)
        if complaint:
            complaints.append(complaint)
    correctness = Correctness(
        max_relative_error=worst_relative,
        max_absolute_error=worst_absolute,
        extra={"matched_ratio": matched, "atol": tolerance.atol, "rtol": tolerance.rtol},
    )
    if complaints:
        return wrong("\n".join(complaints), correctness)
    return Verdict(EvaluationStatus.PASSED, correctness)


def _compare(
    name: str, output: torch.Tensor, wanted: torch.Tensor, tolerance: Tolerance
) -> tuple[float, float, float, str]:
    import torch

    wide = torch.float64 if wanted.dtype.itemsize == 8 or not wanted.dtype.is_floating_point else torch.float32
    output, wanted = output.reshape(-1).to(wide), wanted.reshape(-1).to(wide)
    finite = wanted.isfinite()
    if finite.all() and output.isfinite().all():
        odd = None
        error = (output - wanted).abs()
        size = wanted.abs()
    else:
        # NaN for NaN and the same infinity are right; anything else there is wrong, however many elements may differ.
        same = torch.where(wanted.isnan(), output.isnan(), output == wanted)
        odd = ~torch.where(finite, output.isfinite(), same)
        error = torch.where(finite & output.isfinite(), (output - wanted).abs(), torch.zeros_like(wanted))
        size = torch.where(finite, wanted.abs(), torch.zeros_like(wanted))
    within = error <= tolerance.atol + tolerance.rtol * size
    share = float(within.double().mean())
    absolute = float(error.max())
    # Below atol a relative error says nothing: 1e-9 against 0 is not an infinite mistake.
    relative = float((error / size.clamp_min(max(tolerance.atol, 1e-12))).max())
    if odd is not None and bool(odd.any()):
        return float("inf"), float("inf"), share, _complain(name, "NaN or Inf differ", odd, output, wanted)
    if share < tolerance.matched_ratio:
        what = f"{share:.4%} of the elements match, {tolerance.matched_ratio:.4%} are required"
        return absolute, relative, share, _complain(name, what, ~within, output, wanted)
    return absolute, relative, share, ""


def _complain(name: str, what: str, where: torch.Tensor, output: torch.Tensor, wanted: torch.Tensor) -> str:
    places = where.nonzero().reshape(-1)
    shown = [f"[{i}] {float(output[i]):.6g} expected {float(wanted[i]):.6g}" for i in places[:_SHOWN].tolist()]
    return f"output {name}: {what}; {len(places)} wrong, the first (flat index): {'; '.join(shown)}"
