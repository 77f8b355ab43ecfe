"""Compares numbers: |y - ref| <= atol + rtol * |ref| for all but a stated share of the elements.

Works in slices, so that a comparison inside an engine that left little memory free does not end it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fib_plugin.judge.form import check_form, form_of
from fib_plugin.judge.verdict import Verdict, wrong
from fib_plugin.ops import Tolerance
from fib_plugin.schema import Correctness, Definition, EvaluationStatus

if TYPE_CHECKING:
    import torch

_SHOWN = 4
#: Elements compared at once: about 32 MiB with all that the comparison allocates.
_SLICE = 1 << 20


def outputs(
    definition: Definition,
    outputs: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    tolerance: Tolerance,
    fewer: bool = False,
) -> Verdict:
    """Judge the outputs of one call, on whatever device they are, by what is right for its inputs.

    Args:
        definition: names the outputs.
        outputs: what the solution returned, or the tensors it was given to fill.
        expected: what is right; may lack the definition's last outputs, which are not compared then.
        tolerance: of the definition's evaluation config.
        fewer: ``outputs`` may lack the last ones too.
    """
    wanted_forms = [form_of(wanted) for wanted in expected]
    verdict = check_form(definition, [form_of(output) for output in outputs], wanted_forms, fewer)
    if verdict is not None:
        return verdict
    found = [
        _compare(name, output, wanted, tolerance)
        for name, output, wanted in zip(definition.outputs, outputs, expected, strict=False)
        if wanted.numel()
    ]
    correctness = Correctness(
        max_relative_error=max((one.relative for one in found), default=0.0),
        max_absolute_error=max((one.absolute for one in found), default=0.0),
        extra={
            "matched_ratio": min((one.share for one in found), default=1.0),
            "atol": tolerance.atol,
            "rtol": tolerance.rtol,
        },
    )
    complaints = [one.complaint for one in found if one.complaint]
    if complaints:
        return wrong("\n".join(complaints), correctness)
    return Verdict(EvaluationStatus.PASSED, correctness)


def identical(outputs: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    """Whether two calls returned the same, bit by bit: equal forms, and NaN of one kind for NaN."""
    import torch

    def as_bytes(value: torch.Tensor) -> torch.Tensor:
        return value.detach().contiguous().reshape(-1).view(torch.uint8)

    return len(outputs) == len(others) and all(
        one.dtype == other.dtype and one.shape == other.shape and torch.equal(as_bytes(one), as_bytes(other))
        for one, other in zip(outputs, others, strict=True)
    )


@dataclass(slots=True)
class _Places:
    """How many elements are wrong, and the first few of them."""

    shape: Sequence[int]
    tolerance: Tolerance | None = None
    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, start: int, where: torch.Tensor, output: torch.Tensor, wanted: torch.Tensor) -> None:
        count = int(where.sum())
        self.count += count
        if count and len(self.shown) < _SHOWN:
            for i in where.nonzero().reshape(-1)[: _SHOWN - len(self.shown)].tolist():
                self.shown.append(self._line(start + i, float(output[i]), float(wanted[i])))

    def _line(self, index: int, output: float, wanted: float) -> str:
        place: list[int] = []
        for size in reversed(self.shape):
            place.insert(0, index % size)
            index //= size
        line = f"{place} {output:.6g} expected {wanted:.6g}"
        if self.tolerance is not None:
            allowed = self.tolerance.atol + self.tolerance.rtol * abs(wanted)
            line += f" (off by {abs(output - wanted):.3g}, allowed {allowed:.3g})"
        return line

    def __str__(self) -> str:
        rule = ""
        if self.tolerance is not None:
            rule = f"\n  allowed: atol {self.tolerance.atol:g} + rtol {self.tolerance.rtol:g} * |expected|"
        return f"{self.count} of {math.prod(self.shape)} wrong, the first:\n  " + "\n  ".join(self.shown) + rule


@dataclass(slots=True)
class _Comparison:
    """One output beside what is right."""

    absolute: float = 0.0
    relative: float = 0.0
    share: float = 1.0
    complaint: str = ""


def _compare(name: str, output: torch.Tensor, wanted: torch.Tensor, tolerance: Tolerance) -> _Comparison:
    import torch

    wide = torch.float64 if wanted.dtype.itemsize == 8 or not wanted.dtype.is_floating_point else torch.float32
    found = _Comparison()
    odd, off = _Places(wanted.shape), _Places(wanted.shape, tolerance)
    for start, mine, right in _slices(output.detach(), wanted.detach()):
        mine, right = mine.to(wide), right.to(wide)
        finite = right.isfinite()
        both = finite & mine.isfinite()
        error, size = (mine - right).abs(), right.abs()
        if not bool(both.all()):
            # NaN for NaN and the same infinity are right; anything else there is wrong, however many may differ.
            same = torch.where(right.isnan(), mine.isnan(), mine == right)
            odd.add(start, ~torch.where(finite, mine.isfinite(), same), mine, right)
            error = torch.where(both, error, torch.zeros_like(error))
            size = torch.where(finite, size, torch.zeros_like(size))
        off.add(start, error > tolerance.atol + tolerance.rtol * size, mine, right)
        found.absolute = max(found.absolute, float(error.max()))
        # Below atol a relative error says nothing: 1e-9 against 0 is not an infinite mistake.
        found.relative = max(found.relative, float((error / size.clamp_min(max(tolerance.atol, 1e-12))).max()))
    found.share = (wanted.numel() - off.count) / wanted.numel()
    if odd.count:
        found.absolute = found.relative = float("inf")
        found.complaint = f"output {name}: NaN or Inf differ; {odd}"
    elif found.share < tolerance.matched_ratio:
        what = f"{found.share:.4%} of the elements match, {tolerance.matched_ratio:.4%} are required"
        found.complaint = f"output {name}: {what}; {off}"
    return found


def _slices(output: torch.Tensor, wanted: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(flat index of the first element, part of the output, the same part of what is right), flat."""
    if output.is_contiguous() and wanted.is_contiguous():
        output, wanted = output.reshape(-1), wanted.reshape(-1)
    # Flattening anything else as a whole would copy it as a whole.
    width = wanted[0].numel()
    rows = max(1, _SLICE // width)
    for row in range(0, wanted.shape[0], rows):
        yield row * width, output[row : row + rows].reshape(-1), wanted[row : row + rows].reshape(-1)
