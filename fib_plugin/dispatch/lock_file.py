"""fib.lock on disk: one TOML table a trusted solution. `Trust` reads it in engines, `fib trust` reads and writes it.

A reader sees the file before a change or after it, whatever happens to the writer. The same content is always spelled
the same, sorted by name and hash, so that a diff shows what was trusted and nothing else. Keys that we do not know are
kept, and so is a comment at the top.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import filelock
import msgspec

from fib_plugin.dataset.files import write_file
from fib_plugin.dataset.lines import LOCK_TIMEOUT_S, lock_for
from fib_plugin.schema import SchemaError, Solution, content_hash

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HEAD = "# Solutions that may run inside an engine. Written by `fib trust`.\n"
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LINE = re.compile(r"at line (\d+)")


class Trusted(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[solution]]`. The hash decides; everything else is for people."""

    name: str
    definition: str = ""
    author: str = ""
    hash: str
    trusted_by: str = ""
    trusted_at: str = ""
    run: str = ""
    """the benchmark run it passed; empty: trusted without one"""
    hardware: str = ""
    """what that run was on"""
    spec: str = ""
    sources: dict[str, str] = {}
    """short digests of the parts, by which `verify` tells which of them changed"""
    up_to: dict[str, int] = {}
    """by axis, the largest size that it may run at; axes that a definition lacks do not matter; empty: any"""
    extra: dict[str, Any] = {}
    """keys of the table that we do not know"""

    @classmethod
    def of(cls, solution: Solution, **fields: Any) -> Trusted:
        """The present content of ``solution``; who, when and which run by keyword."""
        return cls(
            name=solution.name,
            definition=solution.definition,
            author=solution.author,
            hash=content_hash(solution),
            spec=spec_digest(solution),
            sources={path: digest(content) for path, content in sorted((s.path, s.content) for s in solution.sources)},
            **fields,
        )


_KNOWN = tuple(name for name in Trusted.__struct_fields__ if name != "extra")


class LockFile:
    """The content of one fib.lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.solutions: list[Trusted] = []
        self._head = _HEAD
        self._rest: dict[str, Any] = {}

    @classmethod
    def read(cls, path: Path) -> LockFile:
        """The file at ``path``; one that does not exist is empty.

        Raises:
            SchemaError: it cannot be read or is not what it should be; the message names file, line and remedy.
        """
        lock = cls(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return lock
        except OSError as error:
            raise SchemaError(
                f"cannot be read: {error.strerror or error}", file=path, remedy="see its owner and mode"
            ) from error
        except UnicodeDecodeError as error:
            raise _broken(path, f"it is not UTF-8: {error}", error.object[: error.start].count(b"\n") + 1) from error
        try:
            content = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise _broken(path, str(error), _line(str(error), text)) from error
        tables = content.pop("solution", [])
        if not isinstance(tables, list):
            raise _broken(path, "`solution` is one table, [[solution]] tables are expected", field="solution")
        lock.solutions = [_trusted(table, path, number) for number, table in enumerate(tables, start=1)]
        lock._head = _leading_comment(text) or _HEAD
        lock._rest = content
        return lock

    def text(self) -> str:
        """What is written."""
        blocks = [self._head]
        if self._rest:
            blocks.append("".join(_pairs(self._rest)))
        for entry in sorted(self.solutions, key=lambda entry: (entry.name, entry.hash)):
            known = {name: getattr(entry, name) for name in _KNOWN}
            # Who writes the file by hand need not give digests of the parts.
            table = {name: value for name, value in known.items() if value or name not in ("spec", "sources", "up_to")}
            blocks.append("[[solution]]\n" + "".join(_pairs({**table, **dict(sorted(entry.extra.items()))})))
        return "\n".join(blocks)


@contextmanager
def editing(path: Path, timeout: float = LOCK_TIMEOUT_S) -> Iterator[LockFile]:
    """The file at ``path``, which no other process changes meanwhile; what was done to it is written at the end.

    Raises:
        SchemaError: the file is broken or cannot be written; nothing was changed then.
    """
    path = path.resolve()  # a link to the file stays a link
    try:
        with lock_for(path, timeout):
            lock = LockFile.read(path)
            before = lock.text()
            yield lock
            after = lock.text()
            if after != before:
                write_file(path, after.encode())
    except filelock.Timeout as error:
        raise SchemaError(
            f"another process holds its lock for more than {timeout:g} s", file=path, remedy="see whether one hangs"
        ) from error
    except UnicodeEncodeError as error:
        raise SchemaError(f"a name is not Unicode: {error}", file=path, remedy="rename the solution") from error
    except OSError as error:
        raise SchemaError(
            f"cannot be written: {error.strerror or error}",
            file=path,
            remedy="see the owner and mode of its folder, or set FIB_LOCK_PATH",
        ) from error


def digest(text: str) -> str:
    """Enough of a sha256 to tell two texts of one solution apart."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def spec_digest(solution: Solution) -> str:
    """The digest of everything that counts beside the sources and the definition."""
    return digest(json.dumps(solution.spec.model_dump(mode="json"), sort_keys=True))


def _line(message: str, text: str) -> int | None:
    found = _LINE.search(message)
    if found is None:
        return text.rstrip().count("\n") + 1 if "at end of document" in message else None
    return int(found[1])


def _broken(path: Path, problem: str, line: int | None = None, field: str | None = None) -> SchemaError:
    remedy = "repair it by hand, or remove the file and run `fib trust add` again"
    return SchemaError(f"broken lock file: {problem}", file=path, line=line, field=field, remedy=remedy)


def _trusted(table: Any, path: Path, number: int) -> Trusted:
    place = f"[[solution]] {number}"
    if not isinstance(table, dict):
        raise _broken(path, "a table is expected", field=place)
    try:
        entry = msgspec.convert({name: table[name] for name in _KNOWN if name in table}, Trusted)
    except msgspec.ValidationError as error:
        raise _broken(path, str(error), field=place) from error
    if not entry.name or not entry.hash:
        raise _broken(path, "name or hash is empty", field=place)
    return msgspec.structs.replace(entry, extra={name: value for name, value in table.items() if name not in _KNOWN})


def _leading_comment(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(f"{line}\n")
    return "".join(lines)


def _pairs(table: Mapping[str, Any]) -> Iterable[str]:
    return (f"{_key(name)} = {_value(value)}\n" for name, value in table.items())


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _string(text: str) -> str:
    # TOML's escapes are JSON's, but it has no surrogate pairs and wants DEL escaped, too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    """A value as tomllib hands it out, on one line."""
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return repr(value)
