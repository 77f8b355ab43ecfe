"""Walks a dataset and hands out every record, or what is wrong with it, with its place. Nothing is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from fib_plugin.dataset import layout
from fib_plugin.dataset.lines import ends_torn, read_lines
from fib_plugin.schema import Definition, Record, SchemaError, Solution, Trace, parse

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Found(Generic[R]):
    """A record with its place, or the error that stands there. `raw` is the line as it is in a JSONL file."""

    file: Path
    line: int | None = None
    record: R | None = None
    error: SchemaError | None = None
    raw: bytes = b""


def files_below(folder: Path, suffix: str, problems: list[SchemaError] | None = None) -> list[Path]:
    """Files with a suffix at any depth, sorted; hidden ones (locks, unfinished writes) are not data."""
    found: list[Path] = []

    def unreadable(error: OSError) -> None:
        if problems is not None and not isinstance(error, FileNotFoundError):
            problems.append(_unreadable(Path(error.filename or folder), error))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if name.endswith(suffix) and not name.startswith(".")]
    return sorted(found)


def definitions(root: Path) -> Iterator[Found[Definition]]:
    yield from _documents(root / layout.DEFINITIONS, Definition)


def solutions(root: Path) -> Iterator[Found[Solution]]:
    yield from _documents(root / layout.SOLUTIONS, Solution)


def workloads(root: Path) -> Iterator[Found[Trace]]:
    """Lines of workloads/. One that carries a solution or an evaluation is an error."""
    yield from _lines(root / layout.WORKLOADS, workload=True)


def traces(root: Path) -> Iterator[Found[Trace]]:
    """Lines of traces/. One without solution and evaluation is an error."""
    yield from _lines(root / layout.TRACES, workload=False)


def _documents(folder: Path, model: type[R]) -> Iterator[Found[R]]:
    problems: list[SchemaError] = []
    for file in files_below(folder, ".json", problems):
        try:
            yield Found(file, record=parse(model, file.read_bytes(), file))
        except SchemaError as error:
            yield Found(file, error=error)
        except OSError as error:
            yield Found(file, error=_unreadable(file, error))
    yield from (Found(Path(problem.file or folder), error=problem) for problem in problems)


def _lines(folder: Path, workload: bool) -> Iterator[Found[Trace]]:
    problems: list[SchemaError] = []
    for file in files_below(folder, ".jsonl", problems):
        yield from read_traces(file, workload)
    yield from (Found(Path(problem.file or folder), error=problem) for problem in problems)


def read_traces(file: Path, workload: bool) -> Iterator[Found[Trace]]:
    """Every line of one file of workloads or of evaluations."""
    number = None
    try:
        for number, line in read_lines(file):
            try:
                trace = parse(Trace, line, file, number)
                _check_place(trace, workload, file, number)
                yield Found(file, number, trace, raw=line)
            except SchemaError as error:
                yield Found(file, number, error=error, raw=line)
    except OSError as error:
        yield Found(file, number, error=_unreadable(file, error))


def _check_place(trace: Trace, workload: bool, file: Path, line: int) -> None:
    if trace.is_workload == workload:
        return
    if workload:
        problem, remedy = "a workload carries a solution or an evaluation", "move the line to a file below traces/"
    else:
        problem, remedy = "a trace has neither solution nor evaluation", "move the line to a file below workloads/"
    raise SchemaError(problem, file=file, line=line, field="solution", remedy=remedy)


def is_torn(found: Found[Trace]) -> bool:
    """Whether an unreadable line is the unfinished end of its file, as a kill leaves it, and no damage."""
    try:
        if found.error is None or not found.raw or not ends_torn(found.file):
            return False
        return not any(number > (found.line or 0) for number, _ in read_lines(found.file))
    except OSError:
        return False


def _unreadable(file: Path, error: OSError) -> SchemaError:
    return SchemaError(f"cannot be read: {error.strerror or error}", file=file, remedy="see its owner and mode")
