"""`fib status`: what running and ended engines did with the plugin: substituted, fell back and why, captured."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fib_plugin import settings

if TYPE_CHECKING:
    from fib_plugin.board.serving import Serving

_REASONS_SHOWN = 3


def status(
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder that holds status/ and quarantine/.", show_default="FIB_CACHE_PATH"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Sum up every run, not only the latest.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show per op: calls, substituted, fallbacks by reason; quarantined solutions; what was captured."""
    from fib_plugin.board.serving import read_serving
    from fib_plugin.dispatch.quarantine import FOLDER

    chosen = _cache(cache, as_json)
    folder = chosen / "status"

    def read() -> Serving:
        return read_serving(folder, every, chosen / FOLDER)

    if watch:
        _watch(read, folder, as_json)
    if as_json:
        typer.echo(json.dumps({"status_dir": str(folder), **read().to_dict()}))
    else:
        Console().print(_render(read(), folder))


def _watch(read: Callable[[], Serving], folder: Path, as_json: bool) -> NoReturn:
    console = Console()
    try:
        # What goes to a file or a pipe cannot be drawn over: one report follows the other.
        while as_json or not console.is_terminal or console.is_dumb_terminal:
            if as_json:
                typer.echo(json.dumps({"status_dir": str(folder), **read().to_dict()}))
            else:
                console.print(_render(read(), folder))
            time.sleep(1.0)
        with Live(_render(read(), folder), console=console, auto_refresh=False, screen=False) as live:
            # Live hides the cursor; whatever ends this process must not leave the terminal without one.
            console.show_cursor(True)
            while True:
                time.sleep(1.0)
                live.update(_render(read(), folder), refresh=True)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _cache(cache: Path | None, as_json: bool) -> Path:
    if cache is not None:
        return cache.expanduser()
    try:
        return settings.load().cache_path
    except settings.SettingsError as error:
        if as_json:
            typer.echo(json.dumps({"problems": [str(error)]}))
        else:
            Console(stderr=True).print(f"[red]problem:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from error


def _render(serving: Serving, folder: Path) -> RenderableType:
    from fib_plugin.board.serving import capture_remedy, explain

    parts: list[RenderableType] = [Text(f"warning: {warning}", style="yellow") for warning in serving.warnings]
    if serving.processes:
        parts.append(_processes(serving))
    if serving.ops:
        parts.append(_ops(serving))
    if serving.quarantined:
        parts.append(_quarantined(serving))
        parts.extend(_ways_back(serving))
    reasons = explain(serving)
    if reasons and serving.calls:
        parts.append(Text("nothing was substituted:", style="yellow"))
        parts.extend(Text(f"  {line}") for line in reasons[:_REASONS_SHOWN])
        if len(reasons) > _REASONS_SHOWN:
            parts.append(Text(f"  and {len(reasons) - _REASONS_SHOWN} further reasons, see --json"))
    else:
        parts.extend(Text(line) for line in reasons)
    parts.extend(_capture(serving))
    for kind in ("dropped", "errors"):
        for reason, count in serving.capture[kind].items():
            parts.append(Text(f"  capture {kind}: {count:,} {reason}: {capture_remedy(reason)}", style="yellow"))
    parts.extend(_targets(serving))
    parts.extend(Text(f"note: {note}") for note in serving.notes)
    parts.extend(Text(f"problem: {problem}", style="red") for problem in serving.problems)
    if serving.hidden:
        parts.append(Text(f"{serving.hidden} processes of earlier runs are not shown (--all)", style="dim"))
    parts.append(Text(f"read from {folder}", style="dim"))
    return Group(*parts)


def _processes(serving: Serving) -> Table:
    table = Table(title="processes", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("process", "state", "engine", "switches", "since"):
        table.add_column(column, overflow="fold")
    for process in serving.processes:
        report = process.status
        engine = ", ".join(f"{name} {version}" for name, version in report.engine.items()) or "-"
        switches = ", ".join(name for name, on in report.switches.items() if on is True) or "-"
        since = time.strftime("%m-%d %H:%M:%S", time.localtime(report.started))
        state = "[green]running[/green]" if process.alive else "[dim]ended[/dim]"
        name = f"{report.host} {report.pid} (rank {report.rank})"
        table.add_row(escape(name), state, escape(engine), escape(switches), since)
    return table


def _ops(serving: Serving) -> Table:
    table = Table(title="ops", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("op", overflow="fold")
    table.add_column("calls", justify="right")
    table.add_column("substituted", justify="right")
    table.add_column("solutions", overflow="fold")
    table.add_column("fallbacks by reason", overflow="fold")
    for name, op in sorted(serving.ops.items()):
        # Packed solutions are named `<name>__<definition>`; here the name alone tells them apart.
        names = (name for total in op.definitions.values() for name in total["solutions"])
        solutions = sorted({name.split("__")[0] for name in names})
        share = f" ({op.substituted / op.calls:.0%})" if op.substituted and op.calls else ""
        fallbacks = "\n".join(f"{reason} {count:,}" for reason, count in op.fallbacks.most_common() if count)
        table.add_row(
            escape(name),
            f"{op.calls:,}",
            f"{op.substituted:,}{share}",
            escape("\n".join(solutions)) or "-",
            escape(fallbacks) or "-",
            style="green" if op.substituted else "",
        )
    return table


def _quarantined(serving: Serving) -> Table:
    table = Table(title="quarantined", box=SIMPLE_HEAD, pad_edge=False)
    columns = ["solution", "definition", "axes", "reason", "detail", "hash"]
    # A cache that several hosts share has records of all of them; each honours its own device's.
    if len({entry["hardware"] for entry in serving.quarantined if "hardware" in entry}) > 1:
        columns.append("hardware")
    for column in columns:
        table.add_column(column, overflow="fold")
    for entry in serving.quarantined:
        axes = " ".join(f"{axis}={size}" for axis, size in (entry.get("axes") or {}).items())
        cells = {**entry, "axes": axes, "hash": str(entry.get("hash", ""))[:12]}
        table.add_row(*(escape(str(cells.get(column, ""))) or "-" for column in columns))
    return table


def _ways_back(serving: Serving) -> list[Text]:
    """One line a solution whose record outlives the process, one line a reason for the others."""
    from fib_plugin.dispatch.reason import REMEDIES

    kept = dict.fromkeys(str(entry["solution"]) for entry in serving.quarantined if entry["on_disk"])
    passing = dict.fromkeys(str(entry.get("reason")) for entry in serving.quarantined if not entry["on_disk"])
    lines = [f"  once it is mended, or known to be right: fib trust add {shlex.quote(name)}" for name in kept]
    lines += [f"  {reason}: {REMEDIES[reason]}" for reason in passing if reason in REMEDIES]
    return [Text(line) for line in lines]


def _capture(serving: Serving) -> list[Text]:
    capture = serving.capture
    if not any(process.status.switches.get("tracing") for process in serving.processes) and not capture["written"]:
        return []
    return [Text(f"capture: {capture['seen']:,} calls seen, {capture['written']:,} workloads written")]


def _targets(serving: Serving) -> list[Text]:
    """Hooks that did not fit; those that did, and those that were not wanted, are `fib doctor`'s business."""
    odd = [
        target
        for target in serving.targets
        if target.get("state") in ("missing", "signature differs", "version differs", "failed")
    ]
    lines = []
    for target in odd:
        detail = f" ({target['detail']})" if target.get("detail") else ""
        lines.append(Text(f"hook {target.get('state')}: {target.get('target')} of {target.get('adapter')}{detail}"))
    return lines
