"""HOT. Watch: a running solution that is looked at again every so many calls; only there when the operator asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fib_plugin.dispatch.stopwatch import capturing


class Watch:
    """Stands for a solution's call.

    Args:
        run: the solution's call.
        recall: puts the solution on probation again; True when this call was still answered by it.
        recheck_every: calls after which it is compared with the engine's op again; 0: never.
        nan_check_every: calls after which an output is searched for NaN and Inf; 0: never. They may be right (padding
            rows hold anything), so the engine's op answers and the next calls are compared.
        overwrites: whether ``run`` leaves its outputs in the place of inputs: then no other can answer the same call.
    """

    __slots__ = ("_calls", "_nan_check_every", "_overwrites", "_recall", "_recheck_every", "_run")

    def __init__(
        self,
        run: Callable[..., Any],
        recall: Callable[[bool], None],
        recheck_every: int,
        nan_check_every: int,
        overwrites: bool = False,
    ) -> None:
        self._overwrites = overwrites
        self._run = run
        self._recall = recall
        self._recheck_every = recheck_every
        self._nan_check_every = nan_check_every
        self._calls = 0

    def __call__(self, *inputs: Any) -> Any:
        self._calls += 1
        result = self._run(*inputs)
        if self._nan_check_every and self._calls % self._nan_check_every == 0 and not capturing(inputs):
            outputs = result if isinstance(result, tuple) else (result,)
            if not all(_finite(output) for output in outputs):
                self._recall(self._overwrites)
                return result if self._overwrites else None
        if self._recheck_every and self._calls % self._recheck_every == 0 and not capturing(inputs):
            self._recall(True)
        return result


def _finite(output: Any) -> bool:
    return not output.dtype.is_floating_point or bool(output.isfinite().all())
