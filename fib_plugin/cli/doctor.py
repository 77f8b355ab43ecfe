"""``fib doctor``: what is installed, which hooks fit, what would be substituted and why not."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fib_plugin.adapter import DIFFERS, OTHER
from fib_plugin.dispatch.reason import REMEDIES
from fib_plugin.doctor import Hook, Report, examine
from fib_plugin.settings import SettingsError, load

console = Console()


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    hooks: Annotated[bool, typer.Option(help="Import the engines and check every hook target.")] = True,
) -> None:
    """Checks engines, hooks, switches and dataset, and says what would be substituted here.

    Exits with 1 when a hook of an installed engine does not fit, or none is for its version.
    """
    try:
        settings = load()
    except SettingsError as error:
        Console(stderr=True).print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(2) from None
    report = examine(settings, hooks=hooks)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        _show(report)
    if _misfits(report.hooks):
        raise typer.Exit(1)


def _misfits(hooks: list[Hook]) -> bool:
    """Whether a hook is not what its adapter expects, or an engine's version is one that no adapter is for."""
    by_engine: dict[str, list[str]] = {}
    for hook in hooks:
        by_engine.setdefault(hook.adapter.partition(".")[0], []).append(hook.state)
    unsupported = any(all(state == DIFFERS for state in states) for states in by_engine.values())
    return unsupported or any(hook.state in ("missing", "signature differs") for hook in hooks)


def _show(report: Report) -> None:
    versions = Table(title="Versions", show_header=False)
    for name, version in {"hardware": report.hardware, **report.versions}.items():
        versions.add_row(name, version)
    switches = Table(title="Switches", show_header=False)
    for name, value in report.switches.items():
        switches.add_row(name, value)
    console.print(versions)
    console.print(switches)
    if report.hooks:
        table = Table("adapter", "target", "state", title="Hooks")
        for hook in report.hooks:
            state = (
                hook.state + (f": {hook.detail}" if hook.detail else "") + ("" if hook.selected else " (not selected)")
            )
            colour = (
                "green"
                if hook.state == "found"
                else "yellow"
                if hook.state in ("optional", "engine absent", OTHER)
                else "red"
            )
            table.add_row(hook.adapter, hook.target, f"[{colour}]{state}[/{colour}]")
        console.print(table)
    summary = ", ".join(f"{value} {name}" for name, value in report.dataset.items() if name not in ("path", "exists"))
    console.print(f"Dataset {report.dataset['path']}: {summary or 'does not exist'}", highlight=False)
    _show_trust(report)
    if report.substitutions:
        table = Table("definition", "would run", "remedy", title="Substitution on this machine")
        for name, what in report.substitutions.items():
            table.add_row(name, what, REMEDIES.get(what, ""))
        console.print(table)
    for problem in report.problems:
        console.print(f"[yellow]- {escape(problem)}[/yellow]", highlight=False)


def _show_trust(report: Report) -> None:
    trust = report.trust
    state = "broken" if trust["problem"] else f"{trust['trusted']} trusted" if trust["exists"] else "does not exist"
    table = Table(title="Trust", show_header=False)
    table.add_row("lock file", f"{escape(trust['lock'])}: {state}")
    table.add_row("proven here, not trusted", escape(", ".join(trust["untrusted"])) or "none")
    table.add_row("quarantined", str(trust["quarantined"]))
    table.add_row("measurements of other hardware", "decide, too" if trust["any_hardware"] else "do not count")
    console.print(table)
