"""Judges: whether what a solution returned is right. The benchmark's parent and the guard inside an engine call them.

They compare values and never run a solution. `outputs` is for numbers, `draws` for samplers; which of the two a
definition needs is ``evaluator`` of its `ops.EvaluationConfig`. `ratio` compares times.
"""

from __future__ import annotations

from fib_plugin.judge.elementwise import identical, outputs
from fib_plugin.judge.form import TENSOR, Form, check_form, form_of
from fib_plugin.judge.ratio import Ratio, median_ms, ratio, together
from fib_plugin.judge.sampling import draws, even, levels
from fib_plugin.judge.verdict import Verdict, wrong

__all__ = [
    "TENSOR",
    "Form",
    "Ratio",
    "Verdict",
    "check_form",
    "draws",
    "even",
    "form_of",
    "identical",
    "levels",
    "median_ms",
    "outputs",
    "ratio",
    "together",
    "wrong",
]
