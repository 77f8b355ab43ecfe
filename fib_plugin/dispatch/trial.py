"""Trial: one solution beside the engine's op on live calls of one size, until it is found right and fast, or not.

A site's entry calls it on calls that the engine's op is going to answer; what it finds goes to the guard.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fib_plugin import judge, ops
from fib_plugin.build import Runnable
from fib_plugin.dispatch.budget import Budget
from fib_plugin.dispatch.canary import Canary
from fib_plugin.dispatch.graph_clock import NotCapturable
from fib_plugin.dispatch.host_state import HostState
from fib_plugin.dispatch.in_place import in_place
from fib_plugin.dispatch.race import PAIRS, Race, SideError
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Entry, Make, Site
from fib_plugin.dispatch.stopwatch import capturing
from fib_plugin.judge import Verdict
from fib_plugin.ops import EvaluationConfig
from fib_plugin.schema import EvaluationStatus

#: Live calls that are compared; warm-up passes bring one for each layer.
STEPS = 3
#: Draws from each distribution that a sampler is judged by.
_DRAWS = 512
#: Further calls that a trial on a GPU waits for, to meet the weights of more layers.
_MORE = 12


@dataclass(slots=True)
class Finding:
    """What a trial found. ``reason`` is None when the solution may run."""

    verdict: Verdict
    reason: Reason | None
    detail: str = ""
    error: Exception | None = None
    solution_ns: list[float] = field(default_factory=list)
    original_ns: list[float] = field(default_factory=list)
    #: The definition's inputs that a workload must hold by value: numbers, and structural tensors on the host.
    inputs: dict[str, Any] = field(default_factory=dict)

    def times(self) -> judge.Ratio:
        """Both sides' times. The ratio is the worse one of medians and of fastest samples.

        Threads that wait for a busy core slow down single samples of either side by orders of magnitude, and then a
        median may be all waiting; the fastest samples are not.
        """
        medians = judge.ratio(self.solution_ns, self.original_ns)
        fastest = min(self.original_ns) / min(self.solution_ns)
        return replace(medians, value=min(medians.value, fastest), low=min(medians.low, fastest))


class _SolutionError(Exception):
    """The solution raised, whoever called it; the cause is what it raised."""


#: What a comparison found wrong.
_Problem = tuple[Verdict, Reason, str, "Exception | None"]


class Trial:
    """Called with live arguments. Never answers the call, never raises what the solution raises.

    Args:
        settle: is told the finding, once.
        steps: live calls to compare.
        least: the ratio that it must reach, at most 1 (see FIB_APPLY_MARGIN).
    """

    def __init__(
        self,
        site: Site,
        entry: Entry,
        runnable: Runnable,
        config: EvaluationConfig,
        budget: Budget,
        settle: Callable[[Trial, Finding], None],
        steps: int = STEPS,
        least: float = 1.0,
    ) -> None:
        self.site = site
        self.entry = entry
        self.runnable = runnable
        #: Calls seen while a CUDA graph was captured: the graph holds the engine's op.
        self.captured = 0
        self._config = config
        self._budget = budget
        self._settle = settle
        self._steps = steps
        self._least = least
        self._done = False
        self._lock = threading.Lock()
        self._compared = 0
        family = ops.family_of(site.definition)
        self._samples = config.evaluator == "sampling"
        self._structural = family.structural if family is not None else ()
        self._names = list(site.definition.inputs)
        places = site.original.places if site.original is not None else ()
        #: The form of the solution that is judged, and that runs if it passes.
        self.call = in_place(runnable, places, config.mutates) or runnable.call
        const = site.definition.const_axes
        specs = site.definition.inputs.values()
        self._race = Race([i for i, s in enumerate(specs) if s.shape and all(axis in const for axis in s.shape)])
        self._finding = Finding(Verdict(EvaluationStatus.PASSED), None)

    def forked(self) -> None:
        """In a forked child nobody holds the lock."""
        self._lock = threading.Lock()

    def __call__(self, make: Make | None, args: tuple[Any, ...]) -> None:
        # Another thread's call is being compared: this one goes its way.
        if self._done or not self._lock.acquire(blocking=False):
            return
        try:
            if self._done:
                return
            if capturing(args):
                self.captured += 1
                return
            if not self._budget.open():
                return
            start = time.monotonic()
            try:
                finding = self._step(make, args)
            except Exception as error:
                # Of ours, the adapter's or the engine's: in doubt the engine's op goes on alone.
                verdict = Verdict(EvaluationStatus.RUNTIME_ERROR, log=repr(error))
                finding = Finding(verdict, Reason.INTERNAL_ERROR, repr(error), error)
            finally:
                self._budget.spent_s += time.monotonic() - start
            if finding is not None:
                self._done = True
                self._settle(self, finding)
        finally:
            self._lock.release()

    def _step(self, make: Make | None, args: tuple[Any, ...]) -> Finding | None:
        inputs = args if make is None else make(*args)
        device = next(value.device for value in inputs if hasattr(value, "device"))
        state = HostState(device)
        problem: _Problem | None = None
        timed = False
        try:
            if self._compared < self._steps:
                problem = self._compare(inputs, args, state)
            if problem is None:
                timed = self._time(make, args, inputs, device)
        except _SolutionError as raised:
            problem = _failed(raised, Reason.SOLUTION_RAISED)
        except SideError as raised:
            problem = _failed(raised, Reason.SOLUTION_RAISED)
        except NotCapturable as raised:
            problem = _failed(raised, Reason.NOT_CAPTURABLE)
        finally:
            # Serving must not notice: the random state above all.
            state.restore()
        if problem is not None and self.call is not self.runnable.call:
            # What cannot read and write the same memory may be right all the same.
            self.call, self._compared = self.runnable.call, 0
            self._race.forget()
            return None
        finding = self._finding
        if problem is not None:
            finding.verdict, finding.reason, finding.detail, finding.error = problem
        self._compared += 1
        if problem is None and not timed:
            return None
        self._keep(inputs)
        finding.solution_ns, finding.original_ns = self._race.solution_ns, self._race.original_ns
        if problem is None and finding.times().value < self._least:
            finding.reason = Reason.SLOWER_HERE
        return finding

    # ---- right? -------------------------------------------------------------------------------------------------

    def _compare(self, inputs: tuple[Any, ...], args: tuple[Any, ...], state: HostState) -> _Problem | None:
        expected = () if self._samples else _tensors(self._original(args))
        state.restore()
        canary = Canary(inputs, self._names, self._config.mutates)
        try:
            first, second = (_tensors(self._run(*canary.lend())) for _ in range(2))
        except _SolutionError:
            canary.harm(())  # puts back what it wrote to before
            raise
        odd = [type(value).__name__ for value in (*first, *second) if not hasattr(value, "untyped_storage")]
        if odd:
            verdict = Verdict(EvaluationStatus.RUNTIME_ERROR, log=f"it returns a {odd[0]} where a tensor is expected")
            return verdict, Reason.WRONG_HERE, verdict.log, None
        harm = canary.harm(first) + _shared(first, second)
        harm += self._meddling(state, canary)
        state.restore()
        verdict = self._judge(inputs, first, expected)
        again = self._judge(inputs, second, expected) if verdict.passed else verdict
        del first, second
        harm += canary.held()
        if harm:
            verdict = Verdict(EvaluationStatus.RUNTIME_ERROR, log="; ".join(harm))
            return verdict, Reason.HARMFUL, verdict.log, None
        worst = verdict if not verdict.passed else again
        self._finding.verdict = worst
        return None if worst.passed else (worst, Reason.WRONG_HERE, worst.log, None)

    def _meddling(self, state: HostState, canary: Canary) -> list[str]:
        """What of the process a call changes. Another thread may have drawn a random number: it is asked twice."""
        allowed = HostState.RANDOM if self._samples else frozenset()
        changed = {name for name in state.differences() if name not in allowed}
        if changed:
            state.restore()
            self._run(*canary.lend())
            changed &= set(state.differences())
        return [f"changes the {name} of the process" for name in sorted(changed)]

    def _run(self, *inputs: Any) -> Any:
        try:
            return self.call(*inputs)
        except Exception as error:
            raise _SolutionError from error

    def _original(self, args: tuple[Any, ...]) -> Any:
        assert self.site.original is not None
        return self.site.original.call(*self._private(args))

    def _private(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments with copies of what the engine's op overwrites."""
        prepare = self.site.original.prepare if self.site.original is not None else None
        if prepare is not None:
            return prepare(*args)
        mutates = self._config.mutates
        if not mutates:
            return args
        return tuple(
            value.clone() if i < len(self._names) and self._names[i] in mutates else value
            for i, value in enumerate(args)
        )

    def _judge(self, inputs: tuple[Any, ...], outputs: Sequence[Any], expected: Sequence[Any]) -> Verdict:
        definition = self.site.definition
        if self._samples:
            # A whole set of draws once; later calls look at the support only.
            draws = [outputs[0]]
            if self._compared == 0:
                rows = max(1, outputs[0].shape[0])
                draws += [self._run(*inputs) for _ in range(max(8, _DRAWS // rows))]
            return judge.draws(definition, inputs, draws)
        return judge.outputs(definition, outputs, expected, self._config.tolerance)

    # ---- fast? --------------------------------------------------------------------------------------------------

    def _time(self, make: Make | None, args: tuple[Any, ...], inputs: tuple[Any, ...], device: Any) -> bool:
        """Whether all times are there. A CPU is timed at every step; a GPU at the end, as it will run: in a graph."""
        assert self.site.original is not None
        original, finish, call = self.site.original.call, self.site.original.finish, self.call
        if make is None:
            self._race.meet(inputs)
        last = self._compared + 1 >= self._steps
        graphs = device.type == "cuda" and not self._samples
        if graphs and not (last and (self._race.cold(device) or self._compared + 1 >= self._steps + _MORE)):
            return False

        def ours(*given: Any) -> None:
            result = call(*given) if make is None else call(*make(*given))
            if finish is not None:
                finish(result, given)

        ours_may_write = make is None and self._config.mutates
        private = (self._private if ours_may_write else _as_they_are, self._private)
        if graphs and self._race.in_graphs(ours, original, args, private, device):
            return True
        pairs = PAIRS if graphs else -(-PAIRS // self._steps)
        self._race.plain(ours, original, args, private, pairs, device)
        return last

    def _keep(self, inputs: tuple[Any, ...]) -> None:
        for name, value in zip(self._names, inputs, strict=True):
            if isinstance(value, (bool, int, float)):
                self._finding.inputs[name] = value
            elif name in self._structural and hasattr(value, "detach"):
                self._finding.inputs[name] = value.detach().to("cpu", copy=True)
            elif not hasattr(value, "shape"):
                self._finding.inputs[name] = float(value)


def _failed(raised: Exception, reason: Reason) -> _Problem:
    error = raised.__cause__
    assert isinstance(error, Exception)
    return Verdict(EvaluationStatus.RUNTIME_ERROR, log=repr(error)), reason, repr(error), error


def _as_they_are(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args


def _tensors(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def _shared(first: Sequence[Any], second: Sequence[Any]) -> list[str]:
    """A result that the next call overwrites is no result."""
    for a, b in zip(first, second, strict=False):
        if a.numel() and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr():
            return ["hands out the same memory for every result"]
    return []
