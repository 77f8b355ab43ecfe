"""What `fib bench` shows while it runs: a bar on a terminal, a line now and then elsewhere; and what it was told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from fib_plugin.bench import BenchResult, Progress

_LINE_EVERY_S = 30.0


class View:
    """Use as a context manager around a run, and hand it `show`. ``quiet`` shows nothing and only collects."""

    def __init__(self, quiet: bool) -> None:
        self.results: list[BenchResult] = []
        self.problems: list[str] = []
        self.interrupted = False
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._line_at = time.monotonic() + _LINE_EVERY_S
        self._bar = Bar(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, left="")

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Take what the run says."""
        if progress.result is not None:
            self.results.append(progress.result)
        if progress.problem:
            self.problems.append(progress.problem)
        doing = {"description": escape(progress.doing)} if progress.doing else {}
        left = "" if progress.left_s is None else f"{duration(progress.left_s)} left"
        self._bar.update(
            self._task,
            completed=progress.done,
            total=progress.total or None,
            left=left,
            **doing,  # type: ignore[arg-type]
        )
        if not self._quiet and not self._console.is_terminal and time.monotonic() > self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY_S
            told = ", ".join(
                part for part in (f"{progress.done} of {progress.total} done", left, progress.doing) if part
            )
            self._console.print(told, soft_wrap=True, highlight=False, markup=False)


def duration(seconds: float) -> str:
    """``0:42``, ``12:05`` or ``3:00:00``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
