"""Files that are whole or absent: written under a temporary name, synced, then given their name."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path


def write_all(fd: int, data: bytes | memoryview) -> None:
    """os.write until everything is written; the disk's OSError otherwise."""
    view = memoryview(data)
    while view.nbytes:
        view = view[os.write(fd, view) :]


def write_temporary(path: Path, buffers: Iterable[bytes | memoryview], sync: bool = True) -> None:
    """Write a file that nothing names yet; it is removed again if that fails."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        for data in buffers:
            write_all(fd, data)
        if sync:
            os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: Path, data: bytes, sync: bool = False) -> None:
    """Give `path` this content; a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_temporary(temporary, [data], sync)
    os.replace(temporary, path)


def create(path: Path, data: bytes) -> bool:
    """Write `path` unless something is there already; of several processes exactly one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    write_temporary(temporary, [data])
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        # File systems without hard links: the last of several equal writers wins instead of the first.
        if path.exists():
            return False
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    sync_folder(path.parent)
    return True
