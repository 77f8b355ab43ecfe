"""Verdict: status, errors and reason; and the check of an output's form that every evaluator starts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fib_plugin.bench.wire import Layout, Output
from fib_plugin.schema import Correctness, Definition, EvaluationStatus


@dataclass(frozen=True, slots=True)
class Verdict:
    """``correctness`` is there exactly when numbers could be compared."""

    status: EvaluationStatus
    correctness: Correctness | None = None
    log: str = ""

    @property
    def passed(self) -> bool:
        return self.status is EvaluationStatus.PASSED


def wrong(log: str, correctness: Correctness | None = None) -> Verdict:
    """INCORRECT_NUMERICAL; without numbers the errors count as infinite."""
    infinite = Correctness(max_relative_error=float("inf"), max_absolute_error=float("inf"))
    return Verdict(EvaluationStatus.INCORRECT_NUMERICAL, correctness or infinite, log)


def check_form(
    definition: Definition, layout: Layout, outputs: Sequence[Output], device: str = "cpu", fewer: bool = False
) -> Verdict | None:
    """None when number, type, shape and dtype of the outputs are right.

    With ``fewer`` the last outputs may be left out: an engine's own op need not return all that a definition has,
    such as the log-sum-exp of attention.
    """
    names = list(definition.outputs)
    if not outputs or len(outputs) > len(names) or (len(outputs) < len(names) and not fewer):
        return Verdict(
            EvaluationStatus.RUNTIME_ERROR,
            log=f"{len(outputs)} values were returned, the definition has {len(names)} outputs: {', '.join(names)}",
        )
    for name, output in zip(names, outputs, strict=False):
        if output.kind != "torch.Tensor":
            return Verdict(EvaluationStatus.RUNTIME_ERROR, log=f"output {name} is a {output.kind}, not a torch.Tensor")
        if output.device != device.split(":")[0]:
            return Verdict(EvaluationStatus.RUNTIME_ERROR, log=f"output {name} is on {output.device}, not on {device}")
    for name, output, place in zip(names, outputs, layout.outputs, strict=False):
        if output.shape != place.shape:
            return Verdict(
                EvaluationStatus.INCORRECT_SHAPE,
                log=f"output {name} has the shape {output.shape}, expected {place.shape}",
            )
    for name, output, place in zip(names, outputs, layout.outputs, strict=False):
        if output.dtype != place.dtype:
            return Verdict(
                EvaluationStatus.INCORRECT_DTYPE, log=f"output {name} is {output.dtype}, expected {place.dtype}"
            )
    return None
