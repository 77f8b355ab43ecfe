"""EvaluationConfig: how a definition's solutions are judged. Bench and the guard take it from here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fib_plugin.dataset.evaluation import EvaluationOverride, evaluation_override
from fib_plugin.ops.family import family_of
from fib_plugin.ops.spec import Tolerance
from fib_plugin.ops.tolerance import tolerance
from fib_plugin.schema import Definition


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How one definition is judged.

    Args:
        tolerance: how far outputs may be off.
        mutates: inputs that the engine's op may overwrite: who runs it beside a solution gives each its own copy.
        evaluator: ``elementwise`` compares numbers, ``sampling`` compares distributions.
    """

    tolerance: Tolerance
    mutates: tuple[str, ...] = ()
    evaluator: Literal["elementwise", "sampling"] = "elementwise"


def evaluation_config(definition: Definition, root: Path | None) -> EvaluationConfig:
    """The defaults of the op family and dtype, with what the dataset below ``root`` says laid over them.

    Reads a small file: ask once for a definition, not once a call.

    Raises:
        SchemaError: the dataset's sidecar cannot be used; nothing is judged by other values than were asked for.
    """
    override = None if root is None else evaluation_override(definition, Path(root))
    override = override or EvaluationOverride()
    family, usual = family_of(definition), tolerance(definition)
    sampling = definition.op_type == "sampling" and "probs" in definition.inputs
    mutates = override.mutates if override.mutates is not None else family.mutates if family is not None else ()
    return EvaluationConfig(
        tolerance=Tolerance(
            usual.atol if override.atol is None else override.atol,
            usual.rtol if override.rtol is None else override.rtol,
            usual.matched_ratio if override.matched_ratio is None else override.matched_ratio,
        ),
        mutates=tuple(mutates),
        evaluator=family.evaluator if family is not None else "sampling" if sampling else "elementwise",
    )
