"""`fib pack`: writes Solution JSON for the kernels in solutions/, or in your own folders, into a dataset."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fib_plugin import pack as packing
from fib_plugin import settings
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import SchemaError, Solution, content_hash


def pack(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SRC]...", help="Folders with solution.toml files; none: the kernels shipped."),
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Dataset to pack into.", show_default="FIB_DATASET_PATH")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Only show which source serves which definition.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Pack kernels: one solution for each definition of the dataset that a kernel serves."""
    root: Path | None = None
    rows: list[dict[str, Any]] = []
    problems: list[SchemaError] = []

    def note(solution: Solution, change: packing.Change) -> None:
        digest = content_hash(solution)
        rows.append({"solution": solution.name, "definition": solution.definition, "change": change, "hash": digest})

    try:
        root = dataset.expanduser() if dataset is not None else settings.load().dataset_path
        if not root.is_dir():
            raise SchemaError("no such dataset", file=root, remedy="create it with `fib dataset init`")
        if listing:
            rows = _listing(root, sources or None)
        else:
            packing.pack(root, sources or None, note)
    except SchemaError as error:
        problems = error.flat()
    except (settings.SettingsError, OSError) as error:
        problems = [SchemaError(str(error))]
    if as_json:
        listed = "sources" if listing else "solutions"
        content = {"dataset": root and str(root), listed: rows, "problems": [p.to_dict() for p in problems]}
        typer.echo(json.dumps(content))
    else:
        _print(root, rows, problems, listing)
    raise typer.Exit(1 if problems else 0)


def _listing(root: Path, paths: list[Path] | None) -> list[dict[str, Any]]:
    definitions = TraceSet.from_path(root, strict=False).definitions
    return [
        {
            "source": source.name,
            "language": source.language.value,
            "families": list(source.families),
            "definitions": [d.name for d, _, refusal in packing.matches(source, definitions) if refusal is None],
            "refused": {d.name: refusal for d, _, refusal in packing.matches(source, definitions) if refusal},
        }
        for source in packing.find_sources(paths)
    ]


def _print(root: Path | None, rows: list[dict[str, Any]], problems: list[SchemaError], listing: bool) -> None:
    console = Console()
    if listing:
        table = Table("source", "language", "serves", "refuses")
        for row in rows:
            serves = "\n".join(row["definitions"]) or f"none yet of {', '.join(row['families'])}"
            refuses = "\n".join(f"{name}: {why}" for name, why in row["refused"].items())
            table.add_row(*(escape(cell) for cell in (row["source"], row["language"], serves, refuses)))
        console.print(table)
    else:
        for row in rows:
            if row["change"] is not packing.Change.SAME:
                console.print(f"{row['change']}: {escape(row['solution'])}", soft_wrap=True, highlight=False)
        counts = Counter(str(row["change"]) for row in rows)
        summary = ", ".join(f"{counts[change]} {change}" for change in packing.Change if counts[change])
        console.print(f"{escape(str(root))}: {summary or 'no definition is served'}", soft_wrap=True, highlight=False)
    for problem in problems:
        console.print(f"[red]problem:[/red] {escape(str(problem))}", soft_wrap=True, highlight=False)
