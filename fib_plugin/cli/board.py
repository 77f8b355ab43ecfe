"""`fib board`: who is correct, who is fast, and against what. Reads a dataset, changes nothing."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fib_plugin import settings
from fib_plugin.schema import SchemaError


class Timing(str, Enum):
    """As measurements say it."""

    GRAPH = "graph"
    PLAIN = "plain"


def board(
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Folder of the dataset.", show_default="FIB_DATASET_PATH")
    ] = None,
    definition: Annotated[str, typer.Option("--definition", "-d", metavar="GLOB", help="Which definitions.")] = "*",
    author: Annotated[str | None, typer.Option("--author", help="Only this author, beside the baseline.")] = None,
    hardware: Annotated[
        str | None, typer.Option("--hardware", metavar="GLOB", help="Only what was measured on such hardware.")
    ] = None,
    p: Annotated[float, typer.Option("--p", min=0.0, help="Rank by fast_p at this level.")] = 1.0,
    timing: Annotated[
        Timing | None, typer.Option("--timing", help="Only ratios from CUDA graphs, or from plain calls.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show per author and solution: correct, speed against the displaced op and the reference, fast_p.

    Numbers of one environment only: this machine's if something was measured here, else the newest.
    """
    from fib_plugin.board.report import render
    from fib_plugin.board.scores import make_board
    from fib_plugin.dataset import TraceSet, current_environment, load_measurements

    problems: list[SchemaError] = []
    try:
        root = settings.load().dataset_path if dataset is None else dataset.expanduser()
        traceset = TraceSet.from_path(root, strict=False)
        measurements = load_measurements(root, problems)
        result = make_board(
            traceset,
            measurements,
            current_environment(),
            definition=definition,
            author=author,
            hardware=hardware,
            p=p,
            timing=None if timing is None else timing.value,
        )
        problems.extend(traceset.problems)
    except (settings.SettingsError, SchemaError, OSError) as error:
        if as_json:
            typer.echo(json.dumps({"problems": [{"problem": str(error)}]}))
        else:
            Console(stderr=True).print(f"[red]problem:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"dataset": str(root), **result.to_dict(), "problems": [e.to_dict() for e in problems]}))
        return
    console = Console()
    console.print(render(result))
    if problems:
        console.print(
            f"note: {len(problems)} records could not be read; `fib dataset validate` lists them", style="dim"
        )
