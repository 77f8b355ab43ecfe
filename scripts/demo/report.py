"""How the demo shows what it found: headings and the tables of its last section."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from outcome import Outcome, spread
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from server import Race, Server

#: Not a terminal: wide enough for the names of solutions.
console = Console(width=None if sys.stdout.isatty() else 140, soft_wrap=False)
_step = 0


def heading(title: str) -> None:
    """A numbered section."""
    global _step
    _step += 1
    console.print()
    console.print(Rule(f"[bold]{_step}. {title}[/bold]", align="left"))


def show_races(stock: Server, others: Sequence[tuple[Server, Race]]) -> None:
    """Seconds of every engine and what each costs against the stock engine beside it."""
    table = Table("engine", title="serving all requests once (seconds)")
    columns = (
        "start",
        "first round",
        "until then",
        "warm round",
        "stock beside it",
        "against stock",
        "lowest",
        "highest",
    )
    for column in columns:
        table.add_column(column, justify="right")
    first = stock.rounds[0].seconds
    table.add_row(
        stock.name, f"{stock.start_seconds:.1f}", f"{first:.2f}", f"{stock.start_seconds + first:.1f}", *["-"] * 5
    )
    for server, result in others:
        first = server.rounds[0].seconds
        seconds = (f"{server.start_seconds:.1f}", f"{first:.2f}", f"{server.start_seconds + first:.1f}")
        warm = (f"{result.other:.3f}", f"{result.stock:.3f}", f"{result.ratio - 1:+.1%}")
        table.add_row(server.name, *seconds, *warm, f"{result.lowest - 1:+.1%}", f"{result.highest - 1:+.1%}")
    console.print(table)
    console.print(
        "first round: every size is met for the first time; what an engine compiles then is kept for those after it. "
        "Warm rounds take turns with the stock engine's. Against stock: median of the ratios of neighbouring rounds, "
        "plus is slower.",
        style="dim",
    )
    for server, result in others:
        doing = "tracing costs" if server.name == "tracing" else "apply changes the time by"
        console.print(f"{doing} [bold]{result.ratio - 1:+.1%}[/bold] of a stock round")


def show_outcome(outcome: Outcome) -> None:
    """What was substituted and whether the answers stayed."""
    table = Table(title="substituted, by what, and how much faster than the displaced op it was where proven")
    for column in ("op", "definition", "solution", "calls", "substituted", "speedup"):
        table.add_column(column, overflow="fold", justify="right" if column in ("calls", "substituted") else "left")
    for each in outcome.substitutions:
        names = "\n".join(name.partition("__")[0] for name in each.solutions)
        share = f"{each.substituted:,} ({each.substituted / each.calls:.0%})"
        table.add_row(each.op, each.definition, names, f"{each.calls:,}", share, spread(each.ratios))
    console.print(table)
    console.print(f"{outcome.proven} of {outcome.measured} solutions were proven faster on at least one workload")
    for answer in outcome.answers:
        colour = "green" if answer.same == answer.total else "red"
        console.print(
            f"greedy tokens with {answer.name}: [{colour}]{answer.same} of {answer.total} the same as stock[/{colour}]"
            f" (the worst of {answer.rounds} rounds)"
        )
