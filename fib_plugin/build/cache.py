"""BuildCache: folders that are either complete or absent, shared by processes that may be killed at any instant.

`fib_plugin.build.builder` calls it. A build that failed for good is an entry as well: its error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fib_plugin.build.error import BuildError
from fib_plugin.build.failure import Failures

_MANIFEST = "complete.json"
_PATIENCE_S = 1800.0


class BuildCache:
    """Build products under ``root``, one folder a key. A folder with a true manifest is complete."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._failures = Failures(root / "failures")

    def folder(self, key: str, fill: Callable[[Path], None], *, toolchain: str = "", retry: bool = False) -> Path:
        """The folder of ``key``; when it is absent or damaged, ``fill`` makes its content in a temporary one.

        Args:
            key: names what is built, with what, for what.
            fill: makes the content; a `BuildError` of it that is lasting is recorded, and raised again at once by
                every later call, whichever process makes it.
            toolchain: described in words, for the record.
            retry: fill again although a failure is recorded.

        Raises:
            BuildError: from ``fill``, or because the cache cannot be written.
        """
        path = self.root / key
        if _complete(path):
            return path
        if not retry:
            self._refuse_known(key)
        try:
            self._make(key, path, fill, toolchain, retry)
        except OSError as error:
            raise BuildError(
                f"the build cache {self.root} cannot be used: {error}",
                remedy="free space, or point FIB_CACHE_PATH at a folder that can be written",
            ) from error
        return path

    def settled(self, key: str) -> bool:
        """Whether `folder` would answer without filling: a complete folder or a recorded failure.

        Cheap: looks at names and sizes. A file that was damaged without changing its size shows in `folder` only.
        """
        return _plausible(self.root / key) or self._failures.known(key) is not None

    def _refuse_known(self, key: str) -> None:
        error = self._failures.known(key)
        if error is not None:
            raise error

    def _make(self, key: str, path: Path, fill: Callable[[Path], None], toolchain: str, retry: bool) -> None:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = locks / f"{key}.lock"
        try:
            with FileLock(lock, timeout=_PATIENCE_S):
                if _complete(path):  # another process was faster
                    return
                if not retry:
                    self._refuse_known(key)
                # We hold the lock, so whatever a killed build left under this key has no owner.
                for stale in [path, *self.root.glob(f".{key}.*")]:
                    shutil.rmtree(stale, ignore_errors=True)
                target = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=self.root))
                try:
                    fill(target)
                    _seal(target)
                    os.rename(target, path)
                    _sync(self.root)
                except BuildError as error:
                    if error.lasting:
                        self._failures.record(key, error, toolchain)
                    raise
                finally:
                    shutil.rmtree(target, ignore_errors=True)
                self._failures.forget(key)
        except Timeout as error:
            raise BuildError(
                f"another process has held {lock} for {_PATIENCE_S:.0f} s",
                remedy="end it, or remove the lock file",
            ) from error


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        # Python writes bytecode beside the sources after the folder was sealed.
        if path.is_file() and path.name != _MANIFEST and path.parent.name != "__pycache__":
            yield path


def _digest(path: Path) -> list[Any]:
    content = path.read_bytes()
    return [len(content), hashlib.sha256(content).hexdigest()]


def _seal(folder: Path) -> None:
    manifest = {}
    for path in _files(folder):
        manifest[path.relative_to(folder).as_posix()] = _digest(path)
        _sync(path)
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    _sync(folder / _MANIFEST)
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            _sync(path)


def _manifest(folder: Path) -> dict[str, list[Any]]:
    """Size and digest by file name."""
    manifest: dict[str, list[Any]] = json.loads((folder / _MANIFEST).read_bytes())
    return manifest


def _complete(folder: Path) -> bool:
    try:
        manifest = _manifest(folder)
        return {path.relative_to(folder).as_posix(): _digest(path) for path in _files(folder)} == manifest
    except (OSError, ValueError):
        return False


def _plausible(folder: Path) -> bool:
    try:
        sizes = {name: known[0] for name, known in _manifest(folder).items()}
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)} == sizes
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
