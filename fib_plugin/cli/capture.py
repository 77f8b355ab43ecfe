"""`fib capture`: start, stop and look at capture in engines that run, through a file in the dataset."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fib_plugin import settings
from fib_plugin.capture import control
from fib_plugin.capture.control import Order
from fib_plugin.capture.control_reports import Report, Reports, read_reports
from fib_plugin.capture.loss import REMEDIES
from fib_plugin.schema import SchemaError

app = typer.Typer(help="Start, stop and look at capture in engines that run.", no_args_is_help=True)

_Dataset = Annotated[
    Path | None, typer.Option("--dataset", help="Folder of the dataset.", show_default="FIB_DATASET_PATH")
]
_Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder that holds status/.", show_default="FIB_CACHE_PATH")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
_Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the processes to follow.")]

_NOT_HOOKED = (
    "tracing is off in this process, so its ops are not hooked and capture cannot be started in it: "
    "start the engine with FIB_ENABLE_TRACING=1"
)
#: Why calls that were looked at are not taken, for people.
_SKIPPED = {
    "off": "keep: off",
    "dump_none": "dump: none, and without its structural inputs a workload could not be run again",
    "stopped": "capture is stopped",
    "workload_quota": "quota workloads_per_definition: raise it, or keep less",
    "backing_off": "the writer was full; tried again",
}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@app.command()
def start(
    dataset: _Dataset = None,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Stop after this time: 90s, 10m, 1h30m.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, help="Stop after so many workloads in each process.")
    ] = None,
    cache: _Cache = None,
    wait: _Wait = 3.0,
    as_json: _Json = False,
) -> None:
    """Let the engines on the dataset record. They must have been started with FIB_ENABLE_TRACING=1.

    Exits with 1 when a process does not follow, or when none can.
    """
    seconds = None if duration is None else _seconds(duration)
    _order(dataset, cache, wait, as_json, recording=True, seconds=seconds, workloads=requests)


@app.command()
def stop(dataset: _Dataset = None, cache: _Cache = None, wait: _Wait = 3.0, as_json: _Json = False) -> None:
    """Let the engines on the dataset record nothing more; calls are still counted.

    It holds for engines that are started later, too, until `fib capture start`.
    """
    _order(dataset, cache, wait, as_json, recording=False)


@app.command()
def status(dataset: _Dataset = None, cache: _Cache = None, as_json: _Json = False) -> None:
    """Show for each process that runs: whether it records, what was written and lost, policies and quotas."""
    root, folder = _folders(dataset, cache, as_json)
    reports = read_reports(folder, root)
    problems = list(reports.problems)
    order = None
    try:
        order = control.read(root)
    except SchemaError as error:
        problems.append(str(error))
    if as_json:
        typer.echo(json.dumps(_content(root, order, reports, problems)))
        return
    console = Console()
    _say(console, f"dataset: {escape(str(root))}; order: {_told(order)}")
    if reports.tracing:
        console.print(_processes(reports.tracing))
    for report in reports.tracing:
        _details(console, report)
    _rest(console, reports, problems)


def _order(
    dataset: Path | None,
    cache: Path | None,
    wait: float,
    as_json: bool,
    *,
    recording: bool,
    seconds: float | None = None,
    workloads: int | None = None,
) -> None:
    root, folder = _folders(dataset, cache, as_json)
    reports = read_reports(folder, root)
    if not root.is_dir() and not reports.tracing:
        _fail(f"{root}: there is no dataset here and no engine that traces into it; see --dataset", as_json)
    try:
        order = control.give(root, recording, seconds, workloads)
    except OSError as error:
        _fail(f"{root / control.FILE}: cannot be written: {error}", as_json)
    reports = _follow(folder, root, order, wait)
    deaf = [report for report in reports.tracing if not report.heard(order.id)]
    problems = [f"{_name(report)}: has not followed within {wait:g} s; see `fib capture status`" for report in deaf]
    problems += reports.problems
    code = 1 if deaf or (recording and reports.hookless and not reports.tracing) else 0
    if as_json:
        typer.echo(json.dumps(_content(root, order, reports, problems)))
        raise typer.Exit(code)
    console = Console()
    _say(console, f"{escape(str(root / control.FILE))}: {_told(order)}")
    for report in reports.tracing:
        if report.heard(order.id):
            _say(console, f"{escape(_name(report))}: {'records' if report.recording else 'does not record'}")
    _rest(console, reports, problems)
    raise typer.Exit(code)


def _follow(folder: Path, root: Path, order: Order, wait: float) -> Reports:
    """The processes' reports, as soon as all of them have heard the order."""
    end = time.monotonic() + wait
    while True:
        reports = read_reports(folder, root)
        if all(report.heard(order.id) for report in reports.tracing) or time.monotonic() >= end:
            return reports
        time.sleep(0.1)


def _content(root: Path, order: Order | None, reports: Reports, problems: list[str]) -> dict[str, Any]:
    import msgspec

    return {
        "dataset": str(root),
        "order": None if order is None else msgspec.to_builtins(order),
        "processes": [
            {**report.to_dict(), "heard": order is not None and report.heard(order.id)} for report in reports.tracing
        ],
        "not_hooked": [report.to_dict() for report in reports.hookless],
        "problems": problems,
    }


def _processes(reports: list[Report]) -> Table:
    table = Table(title="processes", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("process", overflow="fold")
    table.add_column("capture", overflow="fold")
    for column in ("seen", "written", "MiB", "queued", "dropped"):
        table.add_column(column, justify="right")
    for report in reports:
        found = report.capture
        dropped = sum((found.get("dropped") or {}).values())
        table.add_row(
            escape(_name(report)),
            _state(report),
            f"{found.get('seen', 0):,}",
            f"{found.get('written', 0):,}",
            f"{found.get('bytes', 0) / 2**20:.1f}",
            f"{found.get('queued', 0):,}",
            f"{dropped:,}",
        )
    return table


def _state(report: Report) -> str:
    if report.recording:
        return "[green]recording[/green]"
    over = report.capture.get("over")
    return {"time": "stopped: its time is over", "workloads": "stopped: its workloads are taken"}.get(
        str(over), "[yellow]stopped[/yellow]"
    )


def _details(console: Console, report: Report) -> None:
    found = report.capture
    policy = found.get("policy") or {}
    plans: dict[str, dict[str, Any]] = policy.get("definitions") or {}
    if plans:
        table = Table(title=escape(_name(report)), box=SIMPLE_HEAD, pad_edge=False)
        for column in ("definition", "dump", "keep", "k", "rate", "taken", "not taken"):
            table.add_column(column, overflow="fold")
        for name, plan in plans.items():
            dump = plan.get("dump")
            skipped = ", ".join(f"{reason} {count:,}" for reason, count in (plan.get("skipped") or {}).items())
            cells = [
                name,
                ", ".join(dump) if isinstance(dump, list) else str(dump),
                str(plan.get("keep")),
                str(plan.get("k")),
                f"{plan.get('sample_rate', 1):g}",
                f"{plan.get('taken', 0):,}",
                skipped or "-",
            ]
            table.add_row(*(escape(cell) for cell in cells))
        console.print(table)
    reasons = dict.fromkeys(reason for plan in plans.values() for reason in plan.get("skipped") or {})
    for reason in reasons:
        _say(console, f"  not taken, {reason}: {_SKIPPED.get(reason, reason)}")
    for kind in ("dropped", "errors"):
        for reason, count in (found.get(kind) or {}).items():
            _say(
                console, f"  [yellow]{kind}: {count:,} {reason}: {escape(REMEDIES.get(reason, 'see the log'))}[/yellow]"
            )
    if found.get("waiting"):
        _say(console, f"  {found['waiting']:,} sizes are recorded at their next call")
    quota = policy.get("quota") or {}
    told = ", ".join(f"{name} {'none' if limit is None else f'{limit:,}'}" for name, limit in quota.items())
    if told:
        _say(console, f"  quota: {told}")
    for rule in policy.get("unused_rules") or []:
        _say(console, f"  no call has come under the rule {escape(rule)}")
    if found.get("problem"):
        _say(console, f"  [red]problem:[/red] {escape(str(found['problem']))}")


def _rest(console: Console, reports: Reports, problems: list[str]) -> None:
    for report in reports.hookless:
        _say(console, f"[yellow]{escape(_name(report))}: {_NOT_HOOKED}[/yellow]")
    if not reports.tracing and not reports.hookless:
        _say(console, "no engine with the plugin runs now; the order holds for those that are started later")
    for problem in problems:
        _say(console, f"[red]problem:[/red] {escape(problem)}")


def _told(order: Order | None) -> str:
    if order is None:
        return "none, engines record as long as tracing is on"
    if not order.recording:
        return f"stopped since {_clock(order.since)}"
    parts = [f"recording since {_clock(order.since)}"]
    if order.until is not None:
        parts.append(f"until {_clock(order.until)}")
    if order.workloads is not None:
        parts.append(f"{order.workloads:,} workloads in each process")
    return ", ".join(parts)


def _clock(at: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(at))


def _name(report: Report) -> str:
    return f"{report.host} {report.pid} (rank {report.rank})"


def _seconds(text: str) -> float:
    """``1h30m`` in seconds; a bare number is seconds."""
    compact = text.replace(" ", "").lower()
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        total = float(compact)
    elif re.fullmatch(r"(\d+(\.\d+)?[smhd])+", compact):
        total = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)([smhd])", compact))
    else:
        raise typer.BadParameter(f"{text!r} is no time; write 90s, 10m or 1h30m", param_hint="--for")
    if total <= 0:
        raise typer.BadParameter("the time must be more than none", param_hint="--for")
    return total


def _folders(dataset: Path | None, cache: Path | None, as_json: bool) -> tuple[Path, Path]:
    if dataset is not None and cache is not None:
        return dataset.expanduser().absolute(), cache.expanduser() / "status"
    try:
        chosen = settings.load()
    except settings.SettingsError as error:
        _fail(str(error), as_json)
    root = chosen.dataset_path if dataset is None else dataset.expanduser().absolute()
    return root, (chosen.cache_path if cache is None else cache.expanduser()) / "status"


def _fail(problem: str, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"problems": [problem]}))
    else:
        _say(Console(stderr=True), f"[red]problem:[/red] {escape(problem)}")
    raise typer.Exit(1)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False)
