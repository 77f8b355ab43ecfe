"""Trust: which solutions may be loaded into an engine, by the hash of their content. Imports no torch.

Engines ask `Trust.refusal` before anything of a solution is built; `fib trust` calls `add`, `remove` and `verify`.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from fib_plugin.dataset import Measurement, compatible, reading
from fib_plugin.dataset.trace_set import duplicate
from fib_plugin.dispatch.lock_file import LockFile, Trusted, digest, editing, spec_digest
from fib_plugin.dispatch.reason import Reason
from fib_plugin.schema import ENGINE_AUTHOR, Environment, SchemaError, Solution, content_hash

_HASH_PREFIX = re.compile(r"[0-9a-f]{6,64}")


class Trust:
    """The content of fib.lock as an engine sees it: loaded once, asked once a solution.

    >>> trust = Trust.load(settings.lock_path)
    >>> trust.refusal(solution.name, content_hash(solution))
    <Reason.NOT_TRUSTED: 'not_trusted'>
    """

    def __init__(self, path: Path, solutions: Iterable[Trusted] = (), problem: SchemaError | None = None) -> None:
        self.path = path
        self.solutions = tuple(solutions)
        #: Why nothing is trusted although there is a file; its text names file, line and remedy.
        self.problem = problem
        self._hashes = frozenset(entry.hash for entry in self.solutions)
        self._names = frozenset(entry.name for entry in self.solutions)
        self._limits = {entry.hash: entry.up_to for entry in self.solutions if entry.up_to}

    @classmethod
    def load(cls, path: Path) -> Trust:
        """What the file at ``path`` trusts; never raises. Without a file, or with a broken one, that is nothing."""
        try:
            return cls(path, LockFile.read(path).solutions)
        except SchemaError as error:
            return cls(path, problem=error)

    def refusal(self, name: str, hash: str) -> Reason | None:
        """None when content of this hash is trusted, under whatever name; else why the solution is not loaded."""
        if hash in self._hashes:
            return None
        return Reason.CHANGED_SINCE_TRUSTED if name in self._names else Reason.NOT_TRUSTED

    def beyond(self, hash: str, axes: Mapping[str, int]) -> bool:
        """Whether trusted content of this hash is not to run at a size: `up_to` of its table."""
        limits = self._limits.get(hash)
        return limits is not None and any(axes.get(axis, 0) > most for axis, most in limits.items())


@dataclass(slots=True)
class Contents:
    """The solutions a dataset holds now, by name, and the files that could not be read."""

    solutions: dict[str, Solution] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    problems: list[SchemaError] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path) -> Contents:
        """Reads solutions only: workloads and traces may be many."""
        contents = cls()
        for found in reading.solutions(root):
            if found.error is not None:
                contents.problems.extend(found.error.flat())
            if found.record is not None:
                first = contents.files.setdefault(found.record.name, found.file)
                if first is found.file:
                    contents.solutions[found.record.name] = found.record
                else:
                    contents.problems.append(duplicate("solution", found.record.name, found.file, first))
        return contents


class Benchmarks:
    """What benchmarks say of a solution's present content on this machine.

    Args:
        measurements: in the order in which they were taken.
        environment: this machine's.
    """

    def __init__(self, measurements: Sequence[Measurement], environment: Environment) -> None:
        self._environment = environment
        self._by_hash: dict[str, list[Measurement]] = {}
        self._measured_as: dict[str, str] = {}
        for one in measurements:
            self._by_hash.setdefault(one.solution_hash, []).append(one)
            self._measured_as[one.solution] = one.solution_hash

    def passed(self, solution: Solution) -> Measurement | None:
        """The newest passed measurement."""
        mine = self._here(solution)
        return next((one for one in reversed(mine) if one.status == "PASSED"), None)

    def failed(self, solution: Solution) -> list[Measurement]:
        """Those that failed and were not passed by a later run on the same workload."""
        latest = {one.workload: one for one in self._here(solution)}
        return [one for one in latest.values() if one.status != "PASSED"]

    def refusal(self, solution: Solution, unbenchmarked: bool = False) -> SchemaError | None:
        """Why this solution is not to be trusted, with the remedy; None when it may be."""
        name = solution.name
        if solution.author == ENGINE_AUTHOR:
            return SchemaError("it holds an engine's own op", field=name, remedy="there is nothing to trust")
        if unbenchmarked or self.passed(solution) is not None:
            return None
        bench = f"run `fib bench --solutions {name}` first"
        mine = self._by_hash.get(content_hash(solution), [])
        if self._here(solution):
            statuses = ", ".join(sorted({one.status for one in self.failed(solution)}))
            problem, remedy = f"it failed its benchmark: {statuses}", f"mend it, then {bench}"
        elif mine:
            why = compatible(Environment(hardware=mine[-1].hardware, libs=mine[-1].libs), self._environment)
            problem, remedy = f"it was benchmarked elsewhere: {why}", f"{bench} on this machine"
        elif name in self._measured_as:
            problem, remedy = f"it changed since its benchmark (which saw {self._measured_as[name][:12]})", bench
        else:
            problem, remedy = "it was never benchmarked", bench
        return SchemaError(problem, field=name, remedy=remedy)

    def _here(self, solution: Solution) -> list[Measurement]:
        return [
            one
            for one in self._by_hash.get(content_hash(solution), [])
            if compatible(Environment(hardware=one.hardware, libs=one.libs), self._environment) is None
        ]


@dataclass(slots=True)
class Added:
    """One solution that is trusted now. `replaced` holds what its name stood for before, if that was other content."""

    entry: Trusted
    replaced: list[Trusted] = field(default_factory=list)
    new: bool = True


def add(
    path: Path,
    solutions: Mapping[str, Solution],
    passed: Mapping[str, Measurement],
    up_to: Mapping[str, int] | None = None,
) -> list[Added]:
    """Trust the present content of ``solutions``; what their names stood for before is trusted no more.

    Args:
        path: of fib.lock.
        solutions: by name.
        passed: by name, the measurement for which a solution is trusted; none: trusted unbenchmarked.
        up_to: by axis, the largest size that these may run at; None leaves what a table of the same content says.

    A table that says the same already stays as it is.

    Raises:
        SchemaError: fib.lock is broken or cannot be written; nothing was changed then.
    """
    by, at = whoami(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    added: list[Added] = []
    with editing(path) as lock:
        for name, solution in sorted(solutions.items()):
            measured = passed.get(name)
            run, hardware = (measured.run, measured.hardware) if measured is not None else ("", "")
            limits = dict(sorted((up_to or {}).items()))
            entry = Trusted.of(solution, trusted_by=by, trusted_at=at, run=run, hardware=hardware, up_to=limits)
            known = [other for other in lock.solutions if other.name == name]
            same = next((other for other in known if other.hash == entry.hash), None)
            if same is not None and up_to is None:
                entry = msgspec.structs.replace(entry, up_to=same.up_to)
            if same is not None and not run:
                entry = msgspec.structs.replace(entry, run=same.run, hardware=same.hardware)
            if same is not None and (same.run or not run) and same.up_to == entry.up_to:
                change = Added(same, [other for other in known if other.hash != entry.hash], new=False)
            else:
                # What a person noted about other content says nothing about this one.
                kept = {} if same is None else same.extra
                entry = msgspec.structs.replace(entry, extra=kept)
                change = Added(entry, [other for other in known if other.hash != entry.hash])
            lock.solutions = [other for other in lock.solutions if other.name != name] + [change.entry]
            added.append(change)
    return added


def remove(path: Path, patterns: Sequence[str]) -> tuple[list[Trusted], list[str]]:
    """Take out what a name, a glob or the first letters (6 or more) of a hash name; also the patterns without a match.

    Raises:
        SchemaError: fib.lock is broken or cannot be written; nothing was changed then.
    """
    with editing(path) as lock:
        removed = [entry for entry in lock.solutions if any(_names(pattern, entry) for pattern in patterns)]
        lock.solutions = [entry for entry in lock.solutions if entry not in removed]
    return removed, [pattern for pattern in patterns if not any(_names(pattern, entry) for entry in removed)]


@dataclass(slots=True)
class Verdict:
    """How one table of fib.lock compares with the dataset: ok, changed or missing."""

    entry: Trusted
    state: str
    detail: str = ""


def verify(solutions: Iterable[Trusted], contents: Contents) -> list[Verdict]:
    """Hold what is trusted against the present files, in the order of the lock."""
    holders = {content_hash(solution): name for name, solution in sorted(contents.solutions.items(), reverse=True)}
    broken = {Path(problem.file).stem: problem for problem in contents.problems if problem.file is not None}
    verdicts = []
    for entry in solutions:
        present = contents.solutions.get(entry.name)
        if present is not None and content_hash(present) == entry.hash:
            verdict = Verdict(entry, "ok")
        elif present is not None:
            verdict = Verdict(entry, "changed", _difference(entry, present))
        elif entry.hash in holders:
            verdict = Verdict(entry, "ok", f"now named {holders[entry.hash]}")
        elif entry.name in broken:
            verdict = Verdict(entry, "changed", str(broken[entry.name]))
        else:
            verdict = Verdict(entry, "missing", "the dataset holds no solution of this name or content")
        verdicts.append(verdict)
    return verdicts


def whoami() -> str:
    """user@host"""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # containers run as numbers without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _names(pattern: str, entry: Trusted) -> bool:
    if entry.name == pattern or fnmatchcase(entry.name, pattern):
        return True
    return _HASH_PREFIX.fullmatch(pattern) is not None and entry.hash.startswith(pattern)


def _difference(entry: Trusted, present: Solution) -> str:
    now = {source.path: digest(source.content) for source in present.sources}
    changes = []
    if entry.sources:
        changes += [f"{path} changed" for path in now if path in entry.sources and entry.sources[path] != now[path]]
        changes += [f"{path} added" for path in now if path not in entry.sources]
        changes += [f"{path} removed" for path in entry.sources if path not in now]
    if entry.spec and entry.spec != spec_digest(present):
        changes.append("spec changed")
    if entry.definition and entry.definition != present.definition:
        changes.append(f"definition is {present.definition}")
    return ", ".join(changes) or f"hash is {content_hash(present)[:12]}, {entry.hash[:12]} was trusted"
