"""Landlock through its three system calls: which files, ports and processes this process may still reach.

Must be entered while the process has one thread: the kernel binds the thread that asks and those it starts later.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE, _READ, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_ALL = (1 << 13) - 1
_ON_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE
_BIND_AND_CONNECT_TCP = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3


def version() -> int:
    """The kernel's Landlock version; 0 where it has none."""
    return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def restrict(readable: Iterable[Path], writable: Iterable[Path], modifiable: Iterable[Path]) -> tuple[str, ...]:
    """Confine this process and all that it starts; returns what this kernel's version cannot keep out, in words.

    Args:
        readable: folders and files that may be read and executed.
        writable: files and folders whose files may be written as well.
        modifiable: folders in which files may be made and removed as well.
    """
    abi = version()
    if abi < 1:
        return ("Landlock is missing in this kernel: files can be read and written as the user may",)
    every = _ALL | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    network = _BIND_AND_CONNECT_TCP if abi >= 4 else 0
    scoped = _ABSTRACT_SOCKETS_AND_SIGNALS if abi >= 6 else 0
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", every, network, scoped)[:size], size)
    libc = _libc()
    rules = libc.syscall(_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if rules < 0:
        return (f"Landlock refused its rules: {os.strerror(ctypes.get_errno())}",)
    try:
        for paths, access in (
            (readable, _READ | _READ_DIR | _EXECUTE),
            (writable, (_READ | _READ_DIR | _WRITE | _TRUNCATE) & every),
            (modifiable, every),
        ):
            for path in paths:
                _allow(libc, rules, path, access)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_RESTRICT, rules, ctypes.c_uint32(0)):
            return (f"Landlock could not be entered: {os.strerror(ctypes.get_errno())}",)
    finally:
        os.close(rules)
    notes = []
    if abi < 3:
        notes.append("Landlock of this kernel does not keep files from being cut short")
    if abi < 6:
        notes.append("Landlock of this kernel does not keep signals inside")
    return tuple(notes)


def _allow(libc: ctypes.CDLL, rules: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        granted = access if path.is_dir() else access & _ON_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", granted, descriptor), 12)
        libc.syscall(_ADD, rules, 1, rule, ctypes.c_uint32(0))
    finally:
        os.close(descriptor)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
