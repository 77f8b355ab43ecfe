"""Guard: which solutions may run in this process: probation first, the breaker after it, quarantine on disk."""

from __future__ import annotations

import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable, Hashable, Iterable
from datetime import datetime, timezone
from typing import Any

from fib_plugin.build import Runnable
from fib_plugin.dataset.environment import hardware
from fib_plugin.dispatch.budget import Budget
from fib_plugin.dispatch.quarantine import Quarantine, Record
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Entry, Site
from fib_plugin.dispatch.trial import STEPS, Finding, Trial
from fib_plugin.dispatch.watch import Watch
from fib_plugin.ops import EvaluationConfig

logger = logging.getLogger("fib_plugin")

#: Findings that say something about the solution wherever it runs.
_PUTS_OUT = (Reason.WRONG_HERE, Reason.HARMFUL, Reason.SOLUTION_RAISED)


class ProbationError(RuntimeError):
    """A solution was found wrong or harmful on a live call, and FIB_STRICT is set."""


class Guard:
    """Owns which solutions are out, and why.

    Args:
        sites: every site of the process; a solution is out for all of them.
        quarantine: the records on disk, honoured by every process of the host.
        strict: a failure is raised instead.
        probation: compare a solution with the engine's op before it runs.
        recheck_every, nan_check_every: see Watch.
        margin: by which a solution must be faster; less than 0: may be slower (see FIB_APPLY_MARGIN).
        found: is told every finding, for the record; called on the engine's thread.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        quarantine: Quarantine,
        *,
        strict: bool = False,
        probation: bool = True,
        recheck_every: int = 0,
        nan_check_every: int = 0,
        margin: float = 0.0,
        found: Callable[[Trial, Finding], None] = lambda trial, finding: None,
    ) -> None:
        self._sites = sites
        self._quarantine = quarantine
        self._probation = probation
        self._watch = (recheck_every, nan_check_every)
        #: What was shown by a benchmark need not be shown again, but nothing may be slower than was asked for.
        self._least = 1.0 + min(0.0, margin)
        self._found = found
        self._lock = threading.RLock()
        self._hashes: dict[str, str] = {}
        self.budget = Budget()
        self.strict = strict
        #: Solution name -> its record.
        self.out: dict[str, Record] = {}

    def forked(self) -> None:
        """In a forked child: nobody holds the lock here, whoever held it in the parent."""
        self._lock = threading.RLock()
        self.budget = Budget()

    def admit(
        self, site: Site, key: Hashable, axes: dict[str, int], runnable: Runnable, config: EvaluationConfig
    ) -> Entry:
        """The entry for a size whose choice is ``runnable``: running, or on probation first."""
        if not self._probation or site.original is None:
            return self._running(site, key, axes, runnable, config)
        return self._trial(site, key, axes, runnable, config, STEPS)

    def refusal(self, solution: str, digest: str) -> bool:
        """Whether a solution is out, here or on this host."""
        self._hashes[solution] = digest
        if solution not in self.out:
            record = self._quarantine.current(hardware()).get(digest)
            if record is not None:
                self.out[solution] = record
        return solution in self.out

    def honour(self) -> None:
        """Puts out what another process of the host has put into quarantine. Called now and then, off the hot path."""
        known = self._quarantine.current(hardware())
        if not known:
            return
        for name, digest in list(self._hashes.items()):
            record = known.get(digest)
            if record is not None and name not in self.out:
                with self._lock:
                    self.out[name] = record
                    self._retire(name, Reason.QUARANTINED)
                logger.warning(
                    "solution %s was put out by another process (%s); the engine's op answers", name, record.reason
                )

    def broke(self, site: Site, entry: Entry, error: Exception) -> None:
        """The solution of ``entry`` raised: it is out for the process; the caller runs the original.

        Raises:
            Exception: the solution's own error, when strict.
        """
        if self.strict:
            raise error
        name = entry.solution or "?"
        with self._lock:
            self.put_out(name, site.definition.name, Reason.SOLUTION_RAISED, repr(error), entry.axes, error)
            # Several threads may have been inside the solution: each of their calls moves to what answers it.
            entry.calls -= 1
            if entry.heir is not None:
                entry.heir.calls += 1

    def put_out(
        self,
        solution: str,
        definition: str,
        reason: Reason,
        detail: str,
        axes: dict[str, int],
        error: BaseException | None = None,
        keep: bool = True,
    ) -> None:
        """Puts ``solution`` out of this process and, with ``keep``, of those that read the same quarantine."""
        with self._lock:
            if solution not in self.out:
                trace = "".join(traceback.format_exception(error)) if error is not None else ""
                record = Record(
                    solution=solution,
                    definition=definition,
                    hash=self._hashes.get(solution, ""),
                    reason=reason.value,
                    axes=axes,
                    detail=detail[:2000],
                    traceback=trace[-8000:],
                    hardware=hardware(),
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    timestamp=datetime.now(timezone.utc).isoformat(),
                )
                self.out[solution] = record
                logger.warning(
                    "solution %s is out (%s: %s); the engine's op answers.\n%s", solution, reason.value, detail, trace
                )
                if keep and record.hash:
                    self._quarantine.add(record)
            self._retire(solution, reason)

    # ---- probation ----------------------------------------------------------------------------------------------

    def _trial(
        self, site: Site, key: Hashable, axes: dict[str, int], runnable: Runnable, config: EvaluationConfig, steps: int
    ) -> Entry:
        entry = Entry(axes, None, None, Reason.PROBATION.value)

        def settle(trial: Trial, finding: Finding) -> None:
            self._settle(trial, finding, key, config)

        entry.trial = Trial(site, entry, runnable, config, self.budget, settle, steps, self._least)
        return entry

    def _settle(self, trial: Trial, finding: Finding, key: Hashable, config: EvaluationConfig) -> None:
        site, entry, solution = trial.site, trial.entry, trial.runnable.solution
        with self._lock:
            if site.entries.get(key) is not entry:
                return
            reason = finding.reason
            if reason is None and solution.name not in self.out:
                site.replace(key, entry, self._running(site, key, entry.axes, trial.runnable, config, trial.call))
            else:
                reason = reason or Reason.QUARANTINED
                site.replace(key, entry, Entry(entry.axes, None, None, reason.value))
                memory = type(finding.error).__name__ == "OutOfMemoryError"
                if reason in _PUTS_OUT and not memory:
                    self.put_out(solution.name, site.definition.name, reason, finding.detail, entry.axes, finding.error)
                elif reason is not Reason.SLOWER_HERE:
                    logger.warning("solution %s is not used at %s: %s", solution.name, entry.axes, finding.detail)
        self._found(trial, finding)
        if self.strict and finding.reason in (*_PUTS_OUT, Reason.INTERNAL_ERROR):
            raise finding.error or ProbationError(f"solution {solution.name} on {entry.axes}: {finding.detail}")

    def _running(
        self,
        site: Site,
        key: Hashable,
        axes: dict[str, int],
        runnable: Runnable,
        config: EvaluationConfig,
        call: Callable[..., Any] | None = None,
    ) -> Entry:
        """``call`` is the form that a trial found right; without one the solution returns its outputs."""
        call = runnable.call if call is None else call
        entry = Entry(axes, call, runnable.solution.name, "")
        if any(self._watch) and site.original is not None:

            def recall(returned: bool) -> None:
                with self._lock:
                    if site.entries.get(key) is entry:
                        site.replace(key, entry, self._trial(site, key, axes, runnable, config, 1))
                        if not returned and entry.heir is not None:
                            entry.calls -= 1
                            entry.heir.calls += 1

            entry.run = Watch(call, recall, *self._watch, overwrites=call is not runnable.call)
        return entry

    def _retire(self, solution: str, reason: Reason) -> None:
        for site in list(self._sites):
            for key, entry in list(site.entries.items()):
                trial = entry.trial
                tried = isinstance(trial, Trial) and trial.runnable.solution.name == solution
                if tried or (entry.solution == solution and entry.run is not None):
                    site.replace(key, entry, Entry(entry.axes, None, None, reason.value))
