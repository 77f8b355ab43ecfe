"""Tally: what the sites of a process counted, as plain data for files, `fib status` and metrics.

Runs once a second beside the engine, which waits for the interpreter meanwhile: what is the same for most entries is
done once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fib_plugin.dataset import axes_key
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Entry, Site


def by_adapter(
    sites: Iterable[Site], declined: Mapping[str, Mapping[str, int]], replays: Mapping[Entry, int]
) -> dict[str, dict[str, Any]]:
    """Per adapter: calls, substituted, fallbacks by reason, and the same per definition.

    Args:
        declined: calls that an adapter sent to the original without asking a site, by adapter and reason.
        replays: calls that replays of CUDA graphs ran (see Graphs).
    """
    lines: dict[str, dict[str, Any]] = {}
    for adapter, reasons in list(declined.items()):
        line = lines.setdefault(adapter, {**_blank(), "definitions": {}})
        for reason, count in list(reasons.items()):
            _fall_back(line, reason, count)
    for site in list(sites):
        line = lines.setdefault(site.adapter, {**_blank(), "definitions": {}})
        own = line["definitions"].setdefault(site.definition.name, {**_blank(), "solution": None})
        plain: dict[str, int] = {}
        for entry in site.all_entries():
            if entry.run is None and entry.trial is None:
                plain[entry.reason] = (
                    plain.get(entry.reason, 0) + entry.calls + (replays.get(entry, 0) if replays else 0)
                )
            else:
                _add(line, own, entry, replays.get(entry, 0))
        for reason, count in plain.items():
            if count:
                _fall_back(line, reason, count)
                _fall_back(own, reason, count)
    return lines


def by_axes(sites: Iterable[Site], replays: Mapping[Entry, int]) -> dict[str, dict[str, int]]:
    """Calls per definition and axes (see dataset.axes_key)."""
    calls: dict[str, dict[str, int]] = {}
    for site in list(sites):
        counts: dict[str, int] | None = None
        for entry in site.all_entries():
            if not entry.axes:
                continue
            if counts is None:
                counts = calls.setdefault(site.definition.name, {})
            axes = entry.spelled
            if not axes:
                axes = entry.spelled = axes_key(entry.axes)
            counts[axes] = counts.get(axes, 0) + entry.calls + (replays.get(entry, 0) if replays else 0)
    return calls


def _add(line: dict[str, Any], own: dict[str, Any], entry: Entry, replayed: int) -> None:
    if entry.run is not None:
        for each in (line, own):
            each["calls"] += entry.calls + replayed
            each["substituted"] += entry.calls + replayed
        own["solution"] = entry.solution
        return
    # Of what ran before an entry was replaced, a graph holds the engine's op whatever the solution is worth.
    captured = min(getattr(entry.trial, "captured", 0), entry.calls)
    late = Reason.CAPTURING.value if entry.trial is not None else entry.reason
    for each in (line, own):
        for reason, count in (
            (entry.reason, entry.calls - captured),
            (Reason.CAPTURING.value, captured),
            (late, replayed),
        ):
            if count:
                _fall_back(each, reason, count)


def _fall_back(line: dict[str, Any], reason: str, count: int) -> None:
    line["calls"] += count
    line["fallbacks"][reason] = line["fallbacks"].get(reason, 0) + count


def _blank() -> dict[str, Any]:
    return {"calls": 0, "substituted": 0, "fallbacks": {}}
