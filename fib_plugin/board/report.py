"""The board as tables for a terminal. `fib board` prints it; every number that is not known is a dash."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fib_plugin.board.scores import P_LEVELS, Board, DefinitionScore, Line, Score

_CAPTION = (
    "displ.: the engine's op that would be displaced, ref.: the definition's reference (geometric means);"
    " fast p: share of tasks solved correctly at p times the displaced op's speed;"
    " sure: tasks won by the whole interval of the ratio, without a doubt on record"
)

_MOST_FAILED = 20
_REASON = 200


def render(board: Board) -> RenderableType:
    """Authors first, then the solutions of each definition, then what was left out and why."""
    parts: list[RenderableType] = []
    if board.environment is not None:
        parts.append(Text(f"measured on {board.environment.hardware}", style="bold"))
    if board.authors:
        parts.append(_authors(board))
    shown = [score for score in board.definitions if any(line.score.evaluated for line in score.solutions)]
    if shown:
        parts.append(_solutions(shown, board.p))
        parts.extend(_failures(shown))
    parts.extend(Text(f"note: {note}", style="dim") for note in _notes(board, len(shown)))
    return Group(*parts)


def _authors(board: Board) -> Table:
    levels = sorted({*P_LEVELS, board.p})
    table = Table(title="authors", caption=_CAPTION, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("author", overflow="fold")
    _add_number_columns(table)
    for p in levels:
        table.add_column(f"fast\n{p:g}", justify="right", style="bold" if p == board.p else "")
    table.add_column("sure", justify="right")
    rank = 0
    for line in board.authors:
        rank += not line.is_baseline
        shares = [_share(line.score, p) for p in levels]
        table.add_row(
            "base" if line.is_baseline else str(rank), escape(line.author), *_numbers(line.score), *shares, _sure(line)
        )
    return table


def _solutions(definitions: Iterable[DefinitionScore], p: float) -> Table:
    table = Table(title="solutions", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("definition", "solution", "author"):
        table.add_column(column, overflow="fold")
    _add_number_columns(table)
    table.add_column(f"fast\n{p:g}", justify="right")
    table.add_column("sure", justify="right")
    table.add_column("timed")
    for score in definitions:
        lines = [line for line in score.solutions if line.score.evaluated]
        for number, line in enumerate(lines):
            table.add_row(
                escape(score.definition) if number == 0 else "",
                escape(line.solution or ""),
                escape(line.author),
                *_numbers(line.score),
                _share(line.score, p),
                _sure(line),
                line.timed[0] if len(line.timed) == 1 else "mixed" if line.timed else "-",
                end_section=number == len(lines) - 1,
                style="dim" if line.is_baseline else _style(line),
            )
    return table


def _failures(definitions: Iterable[DefinitionScore]) -> Iterable[RenderableType]:
    failed = [line for score in definitions for line in score.solutions if line.failures]
    if not failed:
        return
    table = Table(title="failures", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("solution", overflow="fold")
    table.add_column("status")
    table.add_column("workloads", justify="right")
    table.add_column("reason (the whole log is in the trace)", overflow="fold")
    for line in failed[:_MOST_FAILED]:
        for number, failure in enumerate(line.failures):
            said = failure.reason if len(failure.reason) <= _REASON else f"{failure.reason[:_REASON]}..."
            name = line.solution or "" if number == 0 else ""
            table.add_row(escape(name), failure.status, str(failure.workloads), escape(said) or "-")
    yield table
    if len(failed) > _MOST_FAILED:
        yield Text(f"note: {len(failed) - _MOST_FAILED} more solutions failed (--json has all)", style="dim")


def _add_number_columns(table: Table) -> None:
    for column in ("correct", "vs\ndispl.", "vs\nref."):
        table.add_column(column, justify="right")


def _style(line: Line) -> str:
    if line.score.correct < line.score.evaluated:
        return "red"
    return "green" if (line.score.speedup or 0.0) > 1.0 else ""


def _numbers(score: Score) -> tuple[str, str, str]:
    correct = f"{score.correct}/{score.evaluated}" if score.evaluated else "-"
    return correct, _times(score.speedup), _times(score.reference_speedup)


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _share(score: Score, p: float) -> str:
    return "-" if score.fast_p is None or not score.evaluated else f"{score.fast_p[p]:.0%}"


def _sure(line: Line) -> str:
    return f"{line.score.sure}/{line.score.tasks}" if line.score.tasks and not line.is_baseline else "-"


def _notes(board: Board, shown: int) -> list[str]:
    notes = list(board.notes)
    if not board.definitions:
        notes.append("no definitions: capture some with FIB_ENABLE_TRACING=1")
    elif not shown:
        notes.append("nothing was evaluated yet: run `fib bench`")
    elif len(board.definitions) > shown:
        notes.append(f"{len(board.definitions) - shown} definitions have no evaluated solution")
    if shown and not any(score.tasks for score in board.definitions):
        notes.append("no displaced op was timed, so nothing can be compared with it: run `fib bench`")
    return notes
