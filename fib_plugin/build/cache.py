"""BuildCache: folders that are either complete or absent, shared by processes that may be killed at any instant."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fib_plugin.build.error import BuildError

_MANIFEST = "complete.json"
_PATIENCE_S = 1800.0


class BuildCache:
    """Build products under ``root``, one folder a key. A folder with a true manifest is complete."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str, fill: Callable[[Path], None]) -> Path:
        """The folder of ``key``; when it is absent or damaged, ``fill`` makes its content in a temporary one.

        Raises:
            BuildError: from ``fill``, or because the cache cannot be written.
        """
        path = self.root / key
        if _complete(path):
            return path
        try:
            self._make(key, path, fill)
        except OSError as error:
            raise BuildError(
                f"the build cache {self.root} cannot be used: {error}",
                remedy="free space, or point FIB_CACHE_PATH at a folder that can be written",
            ) from error
        return path

    def _make(self, key: str, path: Path, fill: Callable[[Path], None]) -> None:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = locks / f"{key}.lock"
        try:
            with FileLock(lock, timeout=_PATIENCE_S):
                if _complete(path):  # another process was faster
                    return
                # We hold the lock, so whatever a killed build left under this key has no owner.
                for stale in [path, *self.root.glob(f".{key}.*")]:
                    shutil.rmtree(stale, ignore_errors=True)
                target = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=self.root))
                try:
                    fill(target)
                    _seal(target)
                    os.rename(target, path)
                    _sync(self.root)
                finally:
                    shutil.rmtree(target, ignore_errors=True)
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


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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


def _complete(folder: Path) -> bool:
    try:
        manifest: dict[str, str] = json.loads((folder / _MANIFEST).read_bytes())
        return {path.relative_to(folder).as_posix(): _digest(path) for path in _files(folder)} == manifest
    except (OSError, ValueError):
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
