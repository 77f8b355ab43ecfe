"""`fib dataset`: make, check, count, merge and curate datasets. Tables or `--json`; the exit code is 1 on problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fib_plugin import settings
from fib_plugin.cli.curate import curate, key_axes
from fib_plugin.dataset import MergeReport, layout
from fib_plugin.dataset import merge as merge_datasets
from fib_plugin.dataset import stats as dataset_stats
from fib_plugin.dataset import validate as validate_dataset
from fib_plugin.dataset.lines import LinesError
from fib_plugin.schema import SchemaError

app = typer.Typer(help="Make, check, count, merge and curate FlashInfer Trace datasets.", no_args_is_help=True)

_Root = Annotated[Path | None, typer.Argument(help="Folder of the dataset.", show_default="FIB_DATASET_PATH")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@app.command()
def init(path: _Root = None, as_json: _Json = False) -> None:
    """Make the folders of an empty dataset; one that is there already is left as it is."""
    root = _root(path)
    try:
        made = layout.create(root)
    except (SchemaError, OSError) as error:
        _fail(error, as_json)
    if as_json:
        _print_json({"dataset": str(root), "created": [str(folder) for folder in made]})
    else:
        console = Console()
        console.print(f"{escape(str(root))}: {'made' if made else 'is a dataset already'}", soft_wrap=True)


@app.command()
def validate(path: _Root = None, as_json: _Json = False) -> None:
    """Check every record, and every name, axis and blob that one record takes from another."""
    root = _root(path)
    result = validate_dataset(root)
    if as_json:
        problems = [problem.to_dict() for problem in result.problems]
        _print_json({"dataset": str(root), "checked": dict(result.checked), "problems": problems})
    else:
        console = Console()
        checked = ", ".join(f"{count} {kind}" for kind, count in result.checked.items() if count)
        console.print(f"checked {checked or 'nothing: the dataset is empty'}", soft_wrap=True)
        _print_problems(console, result.problems)
    raise typer.Exit(1 if result.problems else 0)


@app.command()
def stats(path: _Root = None, as_json: _Json = False) -> None:
    """Show what the dataset holds: per definition its workloads, calls, solutions and traces.

    Shapes are different axes. Share is the definition's part of all calls; time share its part of the time of all
    measured definitions, a call taking as long as the engine's op at the nearest measured size ("-": not measured).
    """
    root = _root(path)
    if not root.is_dir():
        _fail(SchemaError("no such folder", file=root, remedy="create it with `fib dataset init`"), as_json)
    rows, problems = dataset_stats(root, key_axes)
    if as_json:
        _print_json(
            {
                "dataset": str(root),
                "definitions": [asdict(row) for row in rows],
                "problems": [problem.to_dict() for problem in problems],
            }
        )
    else:
        console = Console()
        table = Table(title=escape(str(root)))
        for column in ("definition", "op type"):
            table.add_column(column, overflow="fold")
        for column in ("workloads", "calls", "shapes", "share", "time share", "solutions", "traces"):
            table.add_column(column, justify="right")
        for row in rows:
            time = "-" if row.time_share is None else f"{row.time_share:.1%}"
            numbers = (row.workloads, row.calls, row.shapes, f"{row.share:.1%}", time, row.solutions, row.traces)
            table.add_row(escape(row.definition), escape(row.op_type), *map(str, numbers))
        console.print(table)
        _print_problems(console, problems)
    raise typer.Exit(1 if problems else 0)


@app.command()
def merge(
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="[SRC]...", help="Datasets to bring in; none: fold shards in place.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", help="Dataset to merge into.", show_default="FIB_DATASET_PATH")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Take shards of processes that are still running, too.")] = False,
    as_json: _Json = False,
) -> None:
    """Bring datasets together, each record once, and fold the shards that serving processes wrote.

    Records of all kinds come along: definitions, solutions, workloads with their
    blobs, evaluations, measurements, evaluation sidecars, call counts (those of a
    process count once, however often they are merged). What contradicts a stored
    record stays behind, is reported and kept in fib/rejected; so does the torn last
    line of a killed process, with a note. Running again changes nothing.
    """
    try:
        report = merge_datasets(_root(into), sources or (), every)
    except (SchemaError, LinesError, OSError) as error:
        _fail(error, as_json)
    if as_json:
        _print_json(report.to_dict())
    else:
        _print_report(Console(), report)
    raise typer.Exit(1 if report.problems else 0)


app.command()(curate)


def _print_report(console: Console, report: MergeReport) -> None:
    table = Table(title=escape(f"merged into {report.root}"))
    table.add_column("what")
    table.add_column("count", justify="right")
    rows = {
        **{f"{kind.replace('_', ' ')} added": count for kind, count in report.added.items()},
        "duplicates dropped": report.duplicates,
        "workloads that reservoirs let go": report.let_go,
        "shards folded": len(report.shards_folded),
        "shards left to running processes": len(report.shards_left),
        "blobs of duplicates removed": report.blobs_removed,
        "records moved to fib/rejected": report.rejected,
    }
    for what, count in rows.items():
        if count:
            table.add_row(what, str(count))
    if table.row_count:
        console.print(table)
    else:
        console.print("nothing to do: every record is there already")
    for note in report.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    _print_problems(console, report.problems)


def _print_problems(console: Console, problems: Sequence[SchemaError]) -> None:
    for problem in problems:
        console.print(f"[red]problem:[/red] {escape(str(problem))}", soft_wrap=True, highlight=False)
    console.print(f"[red]problems: {len(problems)}[/red]" if problems else "[green]no problems[/green]")


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content))


def _root(path: Path | None) -> Path:
    if path is not None:
        return path.expanduser()
    try:
        return settings.load().dataset_path
    except settings.SettingsError as error:
        _fail(error, as_json=False)


def _fail(error: Exception, as_json: bool) -> NoReturn:
    if as_json:
        problem = error if isinstance(error, SchemaError) else SchemaError(str(error))
        _print_json({"problems": [problem.to_dict()]})
    else:
        Console(stderr=True).print(f"[red]problem:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
    raise typer.Exit(1)
