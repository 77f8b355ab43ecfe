"""A virtual environment with flashinfer-bench from its package, made once and kept below ~/.cache/fib-plugin-tests.

Everything that it needs besides (torch, pydantic, ...) it sees in this interpreter's own packages, so only its own
wheel is fetched, by pip as it is configured here.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import filelock
import pytest

REQUIREMENT = "flashinfer-bench==0.1.2"
#: What it imports and this interpreter may lack.
_ALSO = {"docstring_parser": "docstring-parser>=0.16"}
_LAYOUT = 1  # of the environment; another number makes a new one


class TheirPython:
    """Their interpreter."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, *arguments: object) -> str:
        """Standard output of `python <arguments>`; fails with the errors when it does."""
        return _run(self._folder / "bin/python", *arguments)

    def command(self, *arguments: object) -> str:
        """Standard output and errors of their command line."""
        return _run(self._folder / "bin/python", self._folder / "bin/flashinfer-bench", *arguments, errors=True)

    def side(self, what: str, root: Path) -> Any:
        """The answer of their_side.py."""
        return json.loads(self.run(Path(__file__).with_name("their_side.py"), what, root).splitlines()[-1])


def their_python() -> TheirPython:
    """The environment, made when it is not there; skips the test when pip cannot get the package."""
    own = sysconfig.get_paths()["purelib"]
    key = json.dumps([_LAYOUT, REQUIREMENT, _ALSO, sys.version, own])
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fib-plugin-tests" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock"), timeout=300):
        if not (folder / "ready").exists():
            _make(folder, own)
            (folder / "ready").touch()
    return TheirPython(folder)


def _make(folder: Path, own: str) -> None:
    venv.create(folder, with_pip=False, clear=True, symlinks=True)
    packages = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    # A path in a .pth file is only added: what is installed here editable, this package too, stays out of sight.
    (packages / "host.pth").write_text(f"{own}\n")
    _install(folder, REQUIREMENT)
    for module, requirement in _ALSO.items():
        probe = [folder / "bin/python", "-c", f"import {module}"]
        if subprocess.run(probe, capture_output=True, env=_environment()).returncode:
            _install(folder, requirement)


def _install(folder: Path, requirement: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--no-deps", "--retries", "1"]
    try:
        done = subprocess.run([*map(str, command), requirement], capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip took more than 240 s to get {requirement}")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        pytest.skip(f"pip cannot get {requirement}: {said[-1]}")


def _run(*command: object, errors: bool = False) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=_environment())
    assert done.returncode == 0, done.stderr
    return done.stdout + (done.stderr if errors else "")


def _environment() -> dict[str, str]:
    """Ours without what would lead their interpreter to our modules or settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "FIB_"))}
