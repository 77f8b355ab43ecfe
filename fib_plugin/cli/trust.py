"""`fib trust`: which solutions engines may load. Writes fib.lock, and lets quarantined solutions back in."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fib_plugin import settings
from fib_plugin.dataset import current_environment, load_measurements
from fib_plugin.dispatch import trust as trusting
from fib_plugin.dispatch.lock_file import LockFile, Trusted
from fib_plugin.dispatch.quarantine import FOLDER, Quarantine, Record
from fib_plugin.schema import ENGINE_AUTHOR, SchemaError, Solution

app = typer.Typer(help="Say which solutions engines may load: fib.lock.", no_args_is_help=True)

_Lock = Annotated[Path | None, typer.Option("--lock", help="The lock file.", show_default="FIB_LOCK_PATH")]
_Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder that holds quarantine/.", show_default="FIB_CACHE_PATH")
]
_Dataset = Annotated[
    Path | None, typer.Option("--dataset", help="Folder of the dataset.", show_default="FIB_DATASET_PATH")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@app.command()
def add(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME|GLOB]...", help="Which solutions.")] = None,
    dataset: _Dataset = None,
    every: Annotated[bool, typer.Option("--all", help="All solutions that passed a benchmark here.")] = False,
    author: Annotated[str | None, typer.Option("--author", help="Only solutions of this author.")] = None,
    unbenchmarked: Annotated[
        bool, typer.Option("--unbenchmarked", help="Also those that passed no benchmark here.")
    ] = False,
    up_to: Annotated[
        list[str] | None,
        typer.Option("--up-to", metavar="AXIS=SIZE", help="Only for sizes up to this one; may be given for each axis."),
    ] = None,
    lock: _Lock = None,
    cache: _Cache = None,
) -> None:
    """Trust the present content of solutions that passed a benchmark on this machine.

    Read their sources first: they run with the engine's privileges. What was quarantined is let back in. Exits with 1
    when a solution that was asked for by its name is not trusted.

    --up-to keeps solutions to the sizes at which they were seen to win in an engine (`fib compare`); axes that a
    definition lacks do not matter. It stays until it is given again; `fib trust remove` forgets it.
    """
    limits = _limits(up_to)
    if not names and not every and author is None:
        _fail(SchemaError("nothing is asked for", remedy="name solutions or globs, or take --author or --all"), 2)
    chosen = _settings()
    root = _folder(dataset, chosen)
    contents = trusting.Contents.of(root)
    asked, unknown = _asked(contents, names or ["*"], author)
    benchmarks = _benchmarks(root, contents.problems)
    refused = {s.name: problem for s in asked if (problem := benchmarks.refusal(s, unbenchmarked)) is not None}
    taken = {solution.name: solution for solution in asked if solution.name not in refused}
    passed = {name: one for name, solution in taken.items() if (one := benchmarks.passed(solution)) is not None}
    path = _or(lock, chosen.lock_path)
    console = Console()
    try:
        added = trusting.add(path, taken, passed, limits)
        _print_added(console, path, added)
        cleared = _clear(_quarantine(cache, chosen), trusting.Trust.load(path), added)
    except SchemaError as error:
        _fail(error)
    for solution in taken.values():
        failed = ", ".join(sorted({f"{one.status} at {_axes(one.axes)}" for one in benchmarks.failed(solution)}))
        if failed:
            _say(console, f"[yellow]note:[/yellow] {escape(solution.name)} failed some workloads: {escape(failed)}")
    for record in cleared:
        _say(console, f"cleared from quarantine: {escape(_told(record))}")
    _print_refused(console, refused, {name for name in refused if contents.solutions[name].author == ENGINE_AUTHOR})
    for problem in (*unknown.values(), *contents.problems):
        _say(console, f"[red]problem:[/red] {escape(str(problem))}")
    by_name = {name for name in names or () if name in refused or (name in unknown and not _is_glob(name))}
    raise typer.Exit(1 if by_name else 0)


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME|GLOB|HASH...", help="At least 6 letters of a hash.")],
    lock: _Lock = None,
) -> None:
    """Trust solutions no more. Engines that run keep what they loaded until they are started again."""
    path = _or(lock, _settings().lock_path)
    try:
        removed, unmatched = trusting.remove(path, names)
    except SchemaError as error:
        _fail(error)
    console = Console()
    for entry in removed:
        _say(console, f"removed: {escape(entry.name)} {entry.hash[:12]}")
    for pattern in unmatched:
        problem = SchemaError("nothing trusted matches", file=path, field=pattern, remedy="see `fib trust list`")
        _say(console, f"[red]problem:[/red] {escape(str(problem))}")
    raise typer.Exit(1 if unmatched else 0)


@app.command(name="list")
def show(lock: _Lock = None, cache: _Cache = None, as_json: _Json = False) -> None:
    """Show what is trusted, by whom and since when, and what is quarantined."""
    chosen = _settings(as_json)
    path = _or(lock, chosen.lock_path)
    quarantine = _quarantine(cache, chosen)
    trust = trusting.Trust.load(path)
    found = quarantine.records()
    problems = [*([trust.problem] if trust.problem else []), *quarantine.problems]
    if as_json:
        content = {
            "lock": str(path),
            "solutions": [_fields(entry) for entry in trust.solutions],
            "quarantined": [msgspec.to_builtins(record) for record in found],
            "problems": [problem.to_dict() for problem in problems],
        }
        typer.echo(json.dumps(content))
    else:
        _print_list(Console(), path, trust.solutions, found, problems)
    raise typer.Exit(1 if trust.problem else 0)


@app.command()
def verify(dataset: _Dataset = None, lock: _Lock = None, as_json: _Json = False) -> None:
    """Compare what is trusted with the dataset's present files. Exits with 1 when any was changed."""
    chosen = _settings(as_json)
    path = _or(lock, chosen.lock_path)
    root = _folder(dataset, chosen, as_json)
    try:
        trusted = LockFile.read(path).solutions
    except SchemaError as error:
        _fail(error, as_json=as_json)
    contents = trusting.Contents.of(root)
    verdicts = trusting.verify(trusted, contents)
    counts = {state: sum(verdict.state == state for verdict in verdicts) for state in ("ok", "changed", "missing")}
    if as_json:
        rows = [{"name": v.entry.name, "hash": v.entry.hash, "state": v.state, "detail": v.detail} for v in verdicts]
        problems = [problem.to_dict() for problem in contents.problems]
        content = {"lock": str(path), "dataset": str(root), "counts": counts, "solutions": rows, "problems": problems}
        typer.echo(json.dumps(content))
    else:
        console = Console()
        if verdicts:
            console.print(_verdicts(verdicts))
        for problem in contents.problems:
            _say(console, f"[red]problem:[/red] {escape(str(problem))}")
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        _say(console, f"{escape(str(path))}: {told or 'nothing is trusted'}")
    raise typer.Exit(1 if counts["changed"] else 0)


def _asked(
    contents: trusting.Contents, patterns: Sequence[str], author: str | None
) -> tuple[list[Solution], dict[str, SchemaError]]:
    """The solutions that are meant, and the patterns that mean none."""
    asked: dict[str, Solution] = {}
    unknown: dict[str, SchemaError] = {}
    for pattern in patterns:
        named = contents.solutions.get(pattern)
        matching = [named] if named else [s for s in contents.solutions.values() if fnmatchcase(s.name, pattern)]
        mine = [solution for solution in matching if author is None or solution.author == author]
        asked.update((solution.name, solution) for solution in mine)
        if not mine:
            authors = " and ".join(sorted({solution.author for solution in matching}))
            problem = f"it is by {authors}, not by {author}" if matching else "the dataset holds no such solution"
            near = difflib.get_close_matches(pattern, contents.solutions, n=1)
            remedy = f"is {near[0]} meant?" if near and not matching else "`fib board` shows what there is"
            unknown[pattern] = SchemaError(problem, field=pattern, remedy=remedy)
    return sorted(asked.values(), key=lambda solution: solution.name), unknown


def _limits(given: Sequence[str] | None) -> dict[str, int] | None:
    """What --up-to says, by axis; None where it was not given."""
    if not given:
        return None
    limits = {}
    for text in given:
        axis, _, size = text.partition("=")
        if not axis or not size.isdecimal() or int(size) < 1:
            _fail(SchemaError(f"--up-to {text} is no limit", remedy="write AXIS=SIZE, such as M=16"), 2)
        limits[axis] = int(size)
    return limits


def _is_glob(pattern: str) -> bool:
    return any(letter in pattern for letter in "*?[")


def _benchmarks(root: Path, problems: list[SchemaError]) -> trusting.Benchmarks:
    # Without torch, a machine with a GPU looks like one without.
    with suppress(ImportError, OSError):
        import torch  # noqa: F401
    return trusting.Benchmarks(load_measurements(root, problems), current_environment())


def _print_added(console: Console, path: Path, added: Sequence[trusting.Added]) -> None:
    if not added:
        return
    table = Table(title=escape(f"trusted by {path}"))
    for column in ("name", "definition", "hash", "run", "up to", ""):
        table.add_column(column, overflow="fold")
    for change in added:
        entry = change.entry
        before = ", ".join(other.hash[:12] for other in change.replaced)
        note = f"in place of {before}" if before else "" if change.new else "was already"
        cells = (entry.name, entry.definition, entry.hash[:12], _run(entry), _axes(entry.up_to), note)
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)


def _print_refused(console: Console, refused: Mapping[str, SchemaError], engines: Collection[str]) -> None:
    for name, problem in refused.items():
        if name not in engines:
            _say(console, f"[yellow]refused:[/yellow] {escape(str(problem))}")
    if engines:
        # A glob meets one for each definition; nobody wants to read them all.
        some = ", ".join(sorted(engines)[:3]) + (", ..." if len(engines) > 3 else "")
        _say(console, f"left out: {escape(some)}: an engine's own op is never loaded, there is nothing to trust")


def _print_list(
    console: Console, path: Path, trusted: Sequence[Trusted], found: Sequence[Record], problems: Iterable[SchemaError]
) -> None:
    out = {record.hash: record for record in found}
    if trusted:
        table = Table(title=escape(f"trusted by {path}"))
        for column in ("name", "definition", "author", "hash", "run", "up to", "by", "at", "quarantined"):
            table.add_column(column, overflow="fold")
        for entry in trusted:
            row = (entry.name, entry.definition, entry.author, entry.hash[:12], _run(entry), _axes(entry.up_to))
            reason = out[entry.hash].reason if entry.hash in out else ""
            table.add_row(*(escape(cell) for cell in (*row, entry.trusted_by, entry.trusted_at, reason)))
        console.print(table)
    else:
        _say(console, f"{escape(str(path))}: nothing is trusted; `fib trust add` trusts what passed `fib bench`")
    for record in found:
        _say(console, f"[yellow]quarantined:[/yellow] {escape(_told(record))}; `fib trust add` lets it back in")
    for problem in problems:
        _say(console, f"[red]problem:[/red] {escape(str(problem))}")


def _verdicts(verdicts: Sequence[trusting.Verdict]) -> Table:
    table = Table()
    for column in ("name", "hash", "state", "detail"):
        table.add_column(column, overflow="fold")
    colours = {"ok": "green", "changed": "red", "missing": "yellow"}
    for verdict in verdicts:
        state = f"[{colours[verdict.state]}]{verdict.state}[/]"
        table.add_row(escape(verdict.entry.name), verdict.entry.hash[:12], state, escape(verdict.detail))
    return table


def _run(entry: Trusted) -> str:
    return entry.run or "unbenchmarked"


def _axes(axes: Mapping[str, int]) -> str:
    return " ".join(f"{axis}={size}" for axis, size in axes.items())


def _told(record: Record) -> str:
    times = f", {record.failures} times" if record.failures > 1 else ""
    at = f" at {_axes(record.axes)}" if record.axes else ""
    detail = f": {record.detail.splitlines()[0]}" if record.detail else ""
    return f"{record.solution} {record.hash[:12]} {record.reason}{at}{detail} (on {record.hardware}{times})"


def _fields(entry: Trusted) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(entry)
    return {**{key: str(value) for key, value in fields.pop("extra").items()}, **fields}


def _clear(quarantine: Quarantine, trust: trusting.Trust, added: Sequence[trusting.Added]) -> list[Record]:
    """Lets in what was added, and forgets what its names stood for before: no engine loads that any more."""
    names = {change.entry.name for change in added}
    earlier = {r.hash for r in quarantine.records() if r.solution in names and trust.refusal(r.solution, r.hash)}
    return quarantine.clear(earlier | {change.entry.hash for change in added})


def _or(path: Path | None, default: Path) -> Path:
    return default if path is None else path.expanduser()


def _folder(dataset: Path | None, chosen: settings.Settings, as_json: bool = False) -> Path:
    root = _or(dataset, chosen.dataset_path)
    if not root.is_dir():
        problem = SchemaError("no such dataset", file=root, remedy="name it with --dataset, or set FIB_DATASET_PATH")
        _fail(problem, 2, as_json)
    return root


def _quarantine(cache: Path | None, chosen: settings.Settings) -> Quarantine:
    return Quarantine(_or(cache, chosen.cache_path) / FOLDER)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False)


def _settings(as_json: bool = False) -> settings.Settings:
    try:
        return settings.load()
    except settings.SettingsError as error:
        _fail(error, 2, as_json)


def _fail(error: Exception, code: int = 1, as_json: bool = False) -> NoReturn:
    if as_json:
        problem = error if isinstance(error, SchemaError) else SchemaError(str(error))
        typer.echo(json.dumps({"problems": [problem.to_dict()]}))
    else:
        Console(stderr=True).print(f"[red]problem:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)
