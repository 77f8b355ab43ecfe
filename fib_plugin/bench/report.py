"""Report: the results of a run as a person reads them: what passed with its speed, what failed with its reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fib_plugin.bench.results import BenchResult
from fib_plugin.schema import EvaluationStatus

_LOG_LINES = 16
_CAPTION = (
    "displaced: the op that a solution would replace, timed beside it; speedup over it, with the 95% interval;"
    " roof: share of the memory bandwidth (m) or arithmetic (c) that this machine was measured to reach;"
    " timed: replays of CUDA graphs or calls in a row, with inputs in the device's last cache (warm) or not (cold)"
)
#: What a build says besides the compiler's own words: its steps and command lines.
_NOISE = re.compile(r"ninja|FAILED: |\[\d+/\d+\] |std(out|err):|\s*$|\S*(c\+\+|g\+\+|clang\+\+|nvcc)\S* -")
#: Less than this is what a desktop does besides.
_BUSY = 0.05
_TIMED = {"plain": "calls"}
_HINTS = {
    EvaluationStatus.COMPILE_ERROR: "mend the source, or the toolchain that the log names",
    EvaluationStatus.TIMEOUT: "give it more --timeout if it is not stuck",
    EvaluationStatus.INCORRECT_SHAPE: "compare what it returns with the definition's outputs",
    EvaluationStatus.INCORRECT_DTYPE: "convert the output to the definition's dtype",
}


def show(console: Console, results: Sequence[BenchResult], log_lines: int | None = _LOG_LINES) -> None:
    """A table for each workload, then what each failure said: ``log_lines`` of it, None for all."""
    by_workload: dict[tuple[str, str], list[BenchResult]] = {}
    for result in results:
        by_workload.setdefault((result.definition.name, result.workload.uuid), []).append(result)
    for group in by_workload.values():
        console.print(_table(group))
    if any(result.measurement.solution_ms is not None for result in results):
        console.print(Text(_CAPTION, style="dim"), soft_wrap=True)
    for line in (*_weather(results), *_setups(results), *_kernels(results), *_doubts(results)):
        console.print(line, soft_wrap=True, highlight=False)
    alone = dict.fromkeys(
        one.definition.name for one in results if one.measurement.ratio is not None and not _compared(one)
    )
    if alone:
        names = ", ".join(alone)
        text = (
            f"nothing was compared for {names}: the dataset has no op of an engine for it that is right and runs here"
        )
        console.print(Text(f"{text} (capture writes it beside the definition)"), soft_wrap=True)
    for alike in _alike(results):
        for line in _failure(alike, log_lines):
            console.print(line, soft_wrap=True)


def counts(results: Sequence[BenchResult]) -> str:
    """``3 PASSED, 1 TIMEOUT``."""
    found = Counter(result.status.value for result in results)
    return ", ".join(f"{count} {status}" for status, count in found.most_common())


def wins(results: Sequence[BenchResult], margin: float) -> tuple[list[BenchResult], int]:
    """Those whose lower end is above 1 + ``margin``, and how many were compared with an op that is not their own."""
    compared = [one for one in results if _compared(one) and one.measurement.baseline != one.measurement.solution]
    return [one for one in compared if (one.measurement.ratio_low or 0.0) > 1.0 + margin], len(compared)


def axes_of(result: BenchResult) -> str:
    """The sizes of the workload."""
    return " ".join(f"{axis}={size}" for axis, size in result.workload.axes.items())


def _table(results: Sequence[BenchResult]) -> Table:
    ways = list(dict.fromkeys(filter(None, map(_timed, results))))
    title = Text.assemble((results[0].definition.name, "bold"), f"  {axes_of(results[0])}")
    if len(ways) == 1:
        title.append(f"  timed: {ways[0]}", "dim")
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    table.add_column("solution", overflow="fold", min_width=10)
    table.add_column("status", no_wrap=True)
    for column in ("ms", "displaced", "speedup (95%)", "roof"):
        table.add_column(column, justify="right", no_wrap=True)
    if len(ways) > 1:  # some could be recorded into graphs, and some could not
        table.add_column("timed")
    for result in results:
        table.add_row(*_row(result), *([_timed(result) or "-"] if len(ways) > 1 else []))
    return table


def _row(result: BenchResult) -> list[str]:
    m = result.measurement
    compared = _compared(result)
    color = "green" if result.status is EvaluationStatus.PASSED else "red"
    high = m.ratio if m.ratio_high is None else m.ratio_high
    return [
        escape(_short(result)),
        f"[{color}]{result.status.value}[/]",
        "-" if m.solution_ms is None else f"{m.solution_ms:.4f}",
        f"{m.baseline_ms:.4f}" if compared else "-",
        f"{m.ratio:.2f}x ({m.ratio_low:.2f}-{high:.2f})" if compared else "-",
        f"{m.roof_ms / m.solution_ms:.0%} {m.bound[:1]}" if m.roof_ms and m.solution_ms else "-",
    ]


def _timed(result: BenchResult) -> str:
    """``graph, cold``; empty where nothing was timed."""
    m = result.measurement
    return ", ".join(filter(None, (_TIMED.get(m.timing, m.timing), m.cache))) if m.solution_ms is not None else ""


def _weather(results: Sequence[BenchResult]) -> Iterator[Text]:
    """What the machine was like, at its worst, in one line."""
    seen = [result.measurement.conditions for result in results if result.measurement.conditions is not None]
    clocks = [mhz for one in seen for mhz in one.mhz or ()]
    told = []
    if clocks:
        told.append(f"clock {min(clocks):.0f}" + (f"-{max(clocks):.0f}" if max(clocks) > min(clocks) else "") + " MHz")
    for name, unit in (("temperature_c", " C"), ("power_w", " W"), ("load", " load")):
        values = [value for one in seen if (value := getattr(one, name)) is not None]
        if values:
            told.append(f"{max(values):.3g}{unit}")
    told += sorted({f"governor {one.governor}" for one in seen if one.governor})
    held = max((one.held or 0.0 for one in seen), default=0.0)
    if held > _BUSY:
        told.append(f"busy: up to {held:.0%} of the time no core was free, which widens the intervals")
    if told:
        yield Text(f"machine: {', '.join(told)}", style="dim")


def _setups(results: Sequence[BenchResult]) -> Iterator[Text]:
    """What displaced ops prepare outside of their times."""
    took = [ms for result in results if (ms := result.measurement.baseline_setup_ms) is not None]
    if took:
        span = f"{min(took):.4f}" + (f" to {max(took):.4f}" if max(took) > min(took) else "")
        yield Text(f"not in its time: the displaced op prepares each workload (plan) in {span} ms", style="dim")


def _kernels(results: Sequence[BenchResult]) -> Iterator[Text]:
    """What CUPTI was asked for."""
    for result in results:
        m = result.measurement
        if m.device_ms is not None and m.launches is not None:
            told = f"{m.launches:g} launches a call, {m.device_ms:.4f} ms on the device without the gaps between them"
            yield Text(f"kernels of {_short(result)}, {axes_of(result)}: {told}", style="dim")


def _doubts(results: Sequence[BenchResult]) -> Iterator[Text]:
    """Why ratios prove no win, each reason once."""
    doubts: dict[str, list[str]] = {}
    for result in results:
        if result.measurement.doubt:
            doubts.setdefault(result.measurement.doubt, []).append(_short(result))
    for doubt, names in doubts.items():
        found = list(dict.fromkeys(names))
        shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        yield Text.assemble(("no win for ", "yellow"), f"{shown}: {doubt}")


def _compared(result: BenchResult) -> bool:
    m = result.measurement
    return bool(m.baseline) and m.ratio is not None and m.ratio_low is not None


def _short(result: BenchResult) -> str:
    """The solution's name without its definition's, which stands above."""
    return result.solution.name.removesuffix(f"__{result.definition.name}")


def _alike(results: Sequence[BenchResult]) -> list[list[BenchResult]]:
    """Results with something to tell; those of one solution that tell the same are told once."""
    groups: dict[tuple[str, str, str], list[BenchResult]] = {}
    for result in results:
        if result.log:
            groups.setdefault((result.solution.name, result.status.value, result.log), []).append(result)
    return list(groups.values())


def _failure(group: Sequence[BenchResult], log_lines: int | None) -> Iterator[Text]:
    first = group[0]
    where = axes_of(first) if len(group) == 1 else f"{len(group)} workloads, the first with {axes_of(first)}"
    yield Text.assemble((first.solution.name, "bold"), f" on {where}: ", (first.status.value, "bold"))
    lines = first.log.splitlines()
    if log_lines is not None and first.status is EvaluationStatus.COMPILE_ERROR:
        lines = [line for line in lines if not _NOISE.match(line)] or lines
    shown = lines if log_lines is None else lines[:log_lines]
    yield Text("\n".join(f"  {line}" for line in shown))
    if len(shown) < len(lines):
        yield Text(f"  ... {len(lines) - len(shown)} more lines in the trace (all of them: --full-logs)")
    if first.status in _HINTS:
        yield Text(f"  try: {_HINTS[first.status]}", style="dim")
