"""The ``fib`` command. Each group lives in a file of its own and is imported only here."""

from __future__ import annotations

import importlib
import sys

import typer

app = typer.Typer(
    name="fib",
    help="Capture real workloads, benchmark kernels on them, and run the proven ones in the live engine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

#: Command or group name -> (module, attribute). A Typer becomes a group, a function a command.
_COMMANDS = {
    "dataset": ("fib_plugin.cli.dataset", "app"),
    "capture": ("fib_plugin.cli.capture", "app"),
    "replay": ("fib_plugin.cli.replay", "replay"),
    "pack": ("fib_plugin.cli.pack", "pack"),
    "bench": ("fib_plugin.cli.bench", "bench"),
    "trust": ("fib_plugin.cli.trust", "app"),
    "compare": ("fib_plugin.cli.compare", "compare"),
    "board": ("fib_plugin.cli.board", "board"),
    "status": ("fib_plugin.cli.status", "status"),
    "doctor": ("fib_plugin.cli.doctor", "doctor"),
}

for _name, (_module, _attribute) in _COMMANDS.items():
    _loaded = importlib.import_module(_module)
    _command = getattr(_loaded, _attribute)
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        # A module that reads its arguments in its own way has a Command.
        app.command(name=_name, cls=getattr(_loaded, "Command", None))(_command)


def main() -> None:
    """Entry point of the ``fib`` console script and of ``python -m fib_plugin``."""
    sys.exit(app())
