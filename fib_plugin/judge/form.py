"""The form of returned values: number, type, device, shape and dtype. Every judge checks it before it looks at numbers.

The benchmark calls `check_form` on what its child described, the judges call it on live tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fib_plugin.judge.verdict import Verdict
from fib_plugin.schema import Definition, EvaluationStatus

#: The only kind of value that counts as a tensor: subclasses may compute late, or not at all.
TENSOR = "torch.Tensor"


@dataclass(frozen=True, slots=True)
class Form:
    """What a value is. Anything but a plain tensor has a kind and nothing else."""

    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    device: str = ""


def form_of(value: Any) -> Form:
    """The form of a live value."""
    import torch

    if type(value) is not torch.Tensor:
        return Form(f"{type(value).__module__}.{type(value).__qualname__}")
    return Form(TENSOR, str(value.dtype).removeprefix("torch."), tuple(value.shape), value.device.type)


def check_form(
    definition: Definition, found: Sequence[Form], wanted: Sequence[Form], fewer: bool = False
) -> Verdict | None:
    """None when ``found`` has the form of ``wanted``, which may lack the last outputs of the definition.

    With ``fewer`` the last wanted outputs may be left out too: an engine's own op need not return all that a
    definition has, such as the log-sum-exp of attention.
    """
    names = list(definition.outputs)
    if not found or len(found) > len(names) or (len(found) < len(wanted) and not fewer):
        return Verdict(
            EvaluationStatus.RUNTIME_ERROR,
            log=f"{len(found)} values were returned, the definition has {len(names)} outputs: {', '.join(names)}",
        )
    pairs = list(zip(names, found, wanted, strict=False))
    for name, form, want in pairs:
        if form.kind != TENSOR:
            return Verdict(EvaluationStatus.RUNTIME_ERROR, log=f"output {name} is a {form.kind}, not a torch.Tensor")
        if form.device != want.device:
            log = f"output {name} is on {form.device}, not on {want.device}"
            return Verdict(EvaluationStatus.RUNTIME_ERROR, log=log)
    for name, form, want in pairs:
        if form.shape != want.shape:
            log = f"output {name} has the shape {form.shape}, expected {want.shape}"
            return Verdict(EvaluationStatus.INCORRECT_SHAPE, log=log)
    for name, form, want in pairs:
        if form.dtype != want.dtype:
            return Verdict(
                EvaluationStatus.INCORRECT_DTYPE, log=f"output {name} is {form.dtype}, expected {want.dtype}"
            )
    return None
