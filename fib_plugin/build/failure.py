"""Failures: builds that cannot succeed, kept in the build cache so that nobody waits for the same compiler error again.

`BuildCache` writes one when the compiler refuses the sources. Whatever may pass (a timeout, a killed compiler, a full
disk, a missing tool) is never kept.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from fib_plugin.build.error import BuildError
from fib_plugin.dataset.files import write_file

_LOG_CHARS = 20_000


class Failure(msgspec.Struct, frozen=True):
    """One failed build; `toolchain` says in words what it failed with."""

    problem: str
    log: str
    remedy: str
    when: str
    toolchain: str


class Failures:
    """Records under ``folder``, one file a key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, key: str) -> BuildError | None:
        """The recorded failure of ``key``; a record that cannot be read counts as none."""
        try:
            failure = msgspec.json.decode(self._file(key).read_bytes(), type=Failure)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        remedy = f"{failure.remedy}; it failed on {failure.when} and is tried again by `fib bench`"
        return BuildError(failure.problem, log=failure.log, remedy=remedy, lasting=True)

    def record(self, key: str, error: BuildError, toolchain: str) -> None:
        """Keep ``error``. One that cannot be written is only not kept: the next process compiles again."""
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        failure = Failure(error.problem, error.log[:_LOG_CHARS], error.remedy, when, toolchain)
        with contextlib.suppress(OSError):
            write_file(self._file(key), msgspec.json.format(msgspec.json.encode(failure)))

    def forget(self, key: str) -> None:
        """Drop the record of ``key``, if there is one."""
        with contextlib.suppress(OSError):
            self._file(key).unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.json"
