"""`fib dataset curate`: from raw captures to a representative set, with what share of production it stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fib_plugin import ops, settings
from fib_plugin.dataset import call_time
from fib_plugin.dataset.curating import KEEP
from fib_plugin.dataset.curating import curate as curate_dataset
from fib_plugin.dataset.curation import KeyAxes
from fib_plugin.dataset.curation_plot import NoMatplotlib, check_plotting, plot_curation
from fib_plugin.dataset.curation_report import CurationReport
from fib_plugin.schema import Definition, SchemaError


def key_axes(definition: Definition) -> KeyAxes:
    """The key axes of the definition's op family, else those that its structure suggests."""
    family = ops.family_of(definition)
    if family is None or not all(axis in definition.var_axes for axis in family.key_axes):
        return call_time.key_axes(definition)
    if len(family.key_axes) == 1:
        return KeyAxes(family.key_axes)
    return KeyAxes(family.key_axes, family.key_axes[1], "len_indptr")


def curate(
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Folder of the dataset.", show_default="FIB_DATASET_PATH")
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", help="Folder to write the curated dataset to.", show_default="in place")
    ] = None,
    keep: Annotated[int, typer.Option("--keep", min=1, metavar="N", help="Workloads to keep of a definition.")] = KEEP,
    definitions: Annotated[
        str, typer.Option("--definitions", metavar="GLOB", help="Names of the definitions to look at.")
    ] = "*",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="Write PNG histograms of axes before and after here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be kept; write nothing.")] = False,
) -> None:
    """Keep a representative set of each definition's workloads.

    A definition with N workloads or fewer keeps all. Of more are kept, in this
    order: the extremes along each key axis and of total work; the most called
    shapes, up to N/4; one for each size class along each axis (1, 2-3, 4-7, ...;
    of attention also by KV entries per request); one for each combination of
    classes; the rest, most called first. The same workloads and counts always
    give the same set.

    With --into the curated dataset is written to another folder: definitions,
    kept workloads with their blobs, the engine's own solutions, evaluation
    sidecars, call counts. A file that is there with other content is an error.

    Without --into shards are folded first, and what is left out moves to
    fib/curated_out in the dataset, nothing is deleted;
    `fib dataset merge DATASET/fib/curated_out --into DATASET` brings it back.

    Printed are shares of calls and of time. "exact": calls whose key axes equal
    those of a kept workload. "by class": those in whose size class one was kept.
    Time is calls x the engine's op measured at the nearest size, or an estimate
    from the axes. The exit code is 1 on problems.
    """
    try:
        if plot is not None:
            check_plotting()
        root = settings.load().dataset_path if dataset is None else dataset.expanduser()
        report = curate_dataset(root, into, keep, definitions, dry_run, key_axes)
        plots = [] if plot is None else plot_curation(report, plot)
    except (NoMatplotlib, SchemaError, settings.SettingsError, OSError) as error:
        if as_json:
            problem = error if isinstance(error, SchemaError) else SchemaError(str(error))
            typer.echo(json.dumps({"problems": [problem.to_dict()]}))
        else:
            Console(stderr=True).print(f"[red]problem:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({**report.to_dict(), "plots": [str(file) for file in plots]}))
    else:
        _print(Console(), report, plots)
    raise typer.Exit(1 if report.problems else 0)


def _print(console: Console, report: CurationReport, plots: list[Path]) -> None:
    table = Table(title=escape(f"{report.root}{' (dry run)' if report.dry_run else ''}"))
    table.add_column("definition", overflow="fold")
    for column in ("workloads", "kept", "calls", "exact", "by class", "time exact", "time by class"):
        table.add_column(column, justify="right")
    table.add_column("time")
    for row in report.rows:
        stood = row.standing
        shares = (stood.exact, stood.by_class, stood.exact_time, stood.by_class_time)
        numbers = (str(len(row.before)), str(len(row.after)), str(stood.calls), *map(_percent, shares))
        table.add_row(escape(row.definition), *numbers, row.time_source)
    total = report.total()
    sums = [_percent(total[f"{what}_share_{how}"]) for what in ("calls", "time") for how in ("exact", "by_class")]
    table.add_section()
    table.add_row("all", str(total["workloads"]), str(total["kept"]), str(total["calls"]), *sums, "")
    console.print(table)
    if report.into is not None and not report.dry_run:
        console.print(f"written to {escape(str(report.into))}", soft_wrap=True)
    if report.left_out is not None:
        console.print(f"{report.moved} workloads moved to {escape(str(report.left_out))}", soft_wrap=True)
    for file in plots:
        console.print(f"plot: {escape(str(file))}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    for problem in report.problems:
        console.print(f"[red]problem:[/red] {escape(str(problem))}", soft_wrap=True, highlight=False)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
