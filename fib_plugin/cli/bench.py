"""`fib bench`: benchmarks the solutions of a dataset and shows what came out. Results are kept as they arrive."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fib_plugin import settings
from fib_plugin.schema import SchemaError

if TYPE_CHECKING:
    from fib_plugin.bench import BenchResult, Progress

_LOG_LINES = 12
_INTERRUPTED = 130


def bench(
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Folder of the dataset.", show_default="FIB_DATASET_PATH")
    ] = None,
    definitions: Annotated[
        list[str] | None, typer.Option("--definitions", "-d", help="Name or glob; may be repeated.")
    ] = None,
    solutions: Annotated[
        list[str] | None, typer.Option("--solutions", "-s", help="Name or glob; may be repeated.")
    ] = None,
    op_type: Annotated[str | None, typer.Option("--op-type", help="Only definitions of this op type.")] = None,
    author: Annotated[str | None, typer.Option("--author", help="Only solutions of this author.")] = None,
    workloads: Annotated[
        int | None, typer.Option("--workloads", min=1, help="Workloads per definition, most called first.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds per solution and workload.")] = 60.0,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="CPU threads; default FIB_BENCH_THREADS, else the physical cores."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what was measured here before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Run solutions on captured workloads: right or wrong, and how fast against the op they would displace.

    A failing solution is a result: the exit code stays 0. It is 1 when nothing could run, 2 when the request is wrong.
    """
    root = _root(dataset, as_json)
    from fib_plugin.bench import BenchError, run_bench  # imports torch
    from fib_plugin.dataset import TraceSet, load_measurements

    results: list[BenchResult] = []
    problems: list[str] = []
    interrupted = False
    view = _View(as_json, results, problems)
    try:
        traceset = TraceSet.from_path(root, strict=False)
        with view:
            run_bench(
                traceset,
                definitions,
                solutions,
                workloads,
                resume,
                view.show,
                timeout,
                op_type=op_type,
                author=author,
                threads=threads or settings.load().bench_threads,
                cache=settings.load().cache_path,
            )
    except KeyboardInterrupt:
        interrupted = True
    except (BenchError, SchemaError, OSError, settings.SettingsError) as error:
        _fail(str(error), as_json)
    if as_json:
        print(json.dumps(_summary(root, results, problems, interrupted), indent=2))
    else:
        _print(results, problems, interrupted)
    if interrupted:
        raise typer.Exit(_INTERRUPTED)
    # What an earlier run measured has run: resuming has nothing left to do then.
    ran = bool(results) or (resume and bool(load_measurements(root)))
    raise typer.Exit(1 if problems and not ran else 0)


class _View:
    """Progress bar on standard error while the run lasts; collects what it is told."""

    def __init__(self, quiet: bool, results: list[BenchResult], problems: list[str]) -> None:
        self._results = results
        self._problems = problems
        self._bar = Bar(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        if progress.result is not None:
            self._results.append(progress.result)
        if progress.problem:
            self._problems.append(progress.problem)
        doing = {"description": escape(progress.doing)} if progress.doing else {}
        self._bar.update(self._task, completed=progress.done, total=progress.total, **doing)  # type: ignore[arg-type]


def _root(dataset: Path | None, as_json: bool) -> Path:
    try:
        root = dataset if dataset is not None else settings.load().dataset_path
    except settings.SettingsError as error:
        _fail(str(error), as_json)
    if not root.is_dir():
        _fail(f"{root} is no folder (name the dataset with --dataset, or set FIB_DATASET_PATH)", as_json)
    return root


def _fail(message: str, as_json: bool) -> NoReturn:
    if as_json:
        print(json.dumps({"error": message}))
    else:
        Console(stderr=True).print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(2)


def _print(results: Sequence[BenchResult], problems: Sequence[str], interrupted: bool) -> None:
    console = Console()
    if results:
        table = Table(title="against the op that would be displaced")
        for column in ("definition", "axes", "solution"):
            table.add_column(column, overflow="fold")
        for column in ("status", "ms", "displaced ms", "speedup", "at least"):
            table.add_column(column, justify="right")
        for result in results:
            table.add_row(*_row(result))
        console.print(table)
    for result in results:
        if result.log:
            console.print(f"[bold]{escape(result.solution.name)}[/] on {escape(_axes(result))}: {result.status.value}")
            lines = result.log.splitlines()
            console.print(escape("\n".join(f"  {line}" for line in lines[:_LOG_LINES])), soft_wrap=True)
            if len(lines) > _LOG_LINES:
                console.print(f"  ... {len(lines) - _LOG_LINES} more lines in the trace")
    for problem in problems:
        console.print(f"[yellow]left out:[/] {escape(problem)}", soft_wrap=True)
    counts = Counter(result.status.value for result in results)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common()) or "nothing was left to run"
    console.print(f"{'interrupted; kept' if interrupted else 'done'}: {told}", soft_wrap=True)
    if interrupted:
        console.print("continue with the same command and --resume")
    sys.stdout.flush()


def _row(result: BenchResult) -> list[str]:
    m = result.measurement
    compared = bool(m.baseline) and m.ratio is not None and m.ratio_low is not None
    color = "green" if result.status.value == "PASSED" else "red"
    return [
        escape(result.definition.name),
        escape(_axes(result)),
        escape(result.solution.name),
        f"[{color}]{result.status.value}[/]",
        "-" if m.solution_ms is None else f"{m.solution_ms:.4f}",
        f"{m.baseline_ms:.4f}" if compared else "-",
        f"{m.ratio:.2f}x" if compared else "-",
        f"{m.ratio_low:.2f}x" if compared else "-",
    ]


def _axes(result: BenchResult) -> str:
    return " ".join(f"{axis}={size}" for axis, size in result.workload.axes.items())


def _summary(root: Path, results: Sequence[BenchResult], problems: Sequence[str], interrupted: bool) -> dict[str, Any]:
    import msgspec

    return {
        "dataset": str(root),
        "interrupted": interrupted,
        "statuses": dict(Counter(result.status.value for result in results)),
        "problems": list(problems),
        "results": [{**msgspec.to_builtins(result.measurement), "log": result.log} for result in results],
    }
