"""PNG histograms of key axes before and after a curation, a file a definition. Needs matplotlib (extra `plot`)."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fib_plugin.dataset.curation_report import CurationReport, DefinitionCuration


class NoMatplotlib(ImportError):
    """Plots were asked for and matplotlib is not installed."""


def check_plotting() -> None:
    """Raise NoMatplotlib, with the remedy, before anything else is done."""
    if importlib.util.find_spec("matplotlib") is None:
        raise NoMatplotlib("plots need matplotlib, which is not installed: pip install 'fib-plugin[plot]'")


def plot_curation(report: CurationReport, folder: Path) -> list[Path]:
    """Write <folder>/<op_type>_<definition>.png for every definition with workloads; the files written."""
    check_plotting()
    rows = [row for row in report.rows if row.before and row.keys.names]
    if rows:
        folder.mkdir(parents=True, exist_ok=True)
    return [_plot(row, folder / f"{row.op_type}_{row.definition}.png") for row in rows]


def histograms(row: DefinitionCuration) -> list[dict[str, Counter[int]]]:
    """Along each key axis, by size class: calls, and numbers of workloads before and after."""
    axes = range(len(row.keys.names))

    def counted(cells: Iterable[tuple[tuple[int, ...], int]], axis: int) -> Counter[int]:
        counts: Counter[int] = Counter()
        for cell, count in cells:
            counts[cell[axis]] += count
        return counts

    return [
        {
            "calls": counted(((row.keys.cell(call.axes), call.count) for call in row.calls), axis),
            "before": counted(((row.keys.cell(one.axes), 1) for one in row.before), axis),
            "after": counted(((row.keys.cell(one.axes), 1) for one in row.after), axis),
        }
        for axis in axes
    ]


def _plot(row: DefinitionCuration, file: Path) -> Path:
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    bars = histograms(row)
    figure = Figure(figsize=(6 * len(bars), 7), layout="constrained")
    grid: Any = figure.subplots(2, len(bars), squeeze=False)
    figure.suptitle(f"{row.definition}: {len(row.before)} workloads, {len(row.after)} kept")
    for column, (label, axis) in enumerate(zip(row.keys.labels(), bars, strict=True)):
        classes = range(min(min(each) for each in axis.values() if each), max(max(c) for c in axis.values() if c) + 1)
        names = [_spelled(size) for size in classes]
        for line, when in enumerate(("before", "after")):
            plot = grid[line][column]
            plot.bar(names, [axis[when][size] for size in classes], color="tab:blue", label=f"workloads {when}")
            plot.set_ylabel("workloads")
            plot.set_xlabel(label)
            plot.tick_params(axis="x", rotation=60)
            _calls(plot, names, [axis["calls"][size] for size in classes])
            plot.legend(loc="upper right")
    figure.savefig(file, dpi=100)
    return file


def _calls(plot: Any, names: list[str], calls: list[int]) -> None:
    """The calls of each class as a line with an axis of its own."""
    if any(calls):
        twin = plot.twinx()
        twin.plot(names, calls, color="tab:orange", marker="o", linewidth=1)
        twin.set_ylabel("calls", color="tab:orange")
        twin.set_ylim(bottom=0)


def _spelled(size: int) -> str:
    """The sizes of a class: 0, 1, 2-3, 4-7, ..."""
    low, high = (1 << size) >> 1, (1 << size) - 1
    return str(low) if low == high else f"{low}-{high}"
