"""A command that runs to its end: its wall time, or a number that it prints, is what is compared."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHOWN_LINES = 15


class CommandError(RuntimeError):
    """A command that failed, or whose number is not there; the message says which side, and what it printed last."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Which number counts.

    Args:
        metric: its first group, else the whole match, at its last place in the output.
        key: of the JSON object in the last line of standard output; dots lead into nested ones.
            With neither, the wall time in seconds counts.
    """

    metric: re.Pattern[str] | None = None
    key: str | None = None

    @property
    def name(self) -> str:
        return self.key or (self.metric.pattern if self.metric is not None else "seconds")

    def of(self, output: str, errors: str, seconds: float) -> float:
        """The number in what a run printed.

        Raises:
            CommandError: there is none.
        """
        if self.key is not None:
            return _number(_by_key(output, self.key), f"the value of {self.key}")
        if self.metric is None:
            return seconds
        matches = list(self.metric.finditer(output)) or list(self.metric.finditer(errors))
        if not matches:
            raise CommandError(f"{self.metric.pattern!r} matches nothing in the output (correct --metric)")
        found = matches[-1]
        return _number(found[1] if found.re.groups else found[0], f"what {self.metric.pattern!r} matches")


def run(
    command: Sequence[str], environment: Mapping[str, str], measure: Measure, timeout: float | None = None
) -> float:
    """Runs ``command`` once and returns its number.

    Raises:
        CommandError: it cannot be started, fails, takes longer than ``timeout`` seconds, or shows no such number.
    """
    began = time.perf_counter()
    try:
        done = subprocess.run(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{command[0]} took more than {timeout:g} s (raise --timeout)") from None
    except OSError as error:
        raise CommandError(f"{command[0]} cannot be started: {error}") from error
    seconds = time.perf_counter() - began
    if done.returncode:
        raise CommandError(f"{command[0]} ended with code {done.returncode}{_last(done.stdout, done.stderr)}")
    try:
        return measure.of(done.stdout, done.stderr, seconds)
    except CommandError as error:
        raise CommandError(f"{error}{_last(done.stdout, done.stderr)}") from None


def _by_key(output: str, key: str) -> Any:
    lines = output.strip().splitlines()
    try:
        value: Any = json.loads(lines[-1] if lines else "")
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CommandError(f"the last line of the output has no {key}: {error!r} (correct --key)") from None
    return value


def _number(value: Any, what: str) -> float:
    try:
        found = float(value.replace(",", "") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise CommandError(f"{what} is {value!r}, which is no number") from None
    if not 0 < found < float("inf"):
        raise CommandError(f"{what} is {value!r}: a ratio needs numbers above 0")
    return found


def _last(output: str, errors: str) -> str:
    lines = [*output.splitlines(), *errors.splitlines()][-_SHOWN_LINES:]
    return "; it said last:" + "".join(f"\n  {line}" for line in lines) if lines else ""
