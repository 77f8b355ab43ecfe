"""What a call does beside its result: library ops it calls, kernels it launches, threads it leaves."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_frames = sys._current_frames
#: A pool that was told to end needs a moment.
_ENDING_S = 0.1
#: Code from text that is no solution's: imports, what `fib_plugin.build` and dataclasses make.
_FROM_TEXT = ("<frozen ", "<call>", "<into>", "<__array_function__")


@dataclass(slots=True)
class Seen:
    """``launches`` is None where no launcher is loaded whose kernels could be counted.

    ``python``: which Python code ran that belongs to nothing that is installed.
    """

    library: list[str] = field(default_factory=list)
    launches: int | None = None
    python: list[str] = field(default_factory=list)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of the ops that pass."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = names

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that it asks for imports the compiler: seconds, and nothing here is compiled

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def watching(ghost: bool, native: bool = False) -> Iterator[Seen]:
    """Count what is called inside; with ``ghost`` no kernel of Triton's is launched.

    ``native``: compiled code is called, which has no business with Python beside its binding's and torch's own.
    """
    seen = Seen()
    launchers = _launchers()
    if launchers:
        seen.launches = 0
    originals = [(owner, name, vars(owner)[name]) for owner, name in launchers]
    for owner, name, original in originals:
        setattr(owner, name, _counting(original, seen, ghost))
    try:
        with _Recorder(seen.library), _noting_python(seen.python) if native else contextlib.nullcontext():
            yield seen
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
        seen.library[:] = sorted(set(seen.library))
        seen.python[:] = sorted(set(seen.python))


@contextlib.contextmanager
def _noting_python(names: list[str]) -> Iterator[None]:
    """Note code that was made from text: what is installed lies in files, as our own does."""

    def note(frame: Any, event: str, _: Any) -> None:
        where = frame.f_code.co_filename
        if event == "call" and where.startswith("<") and not where.startswith(_FROM_TEXT):
            names.append(f"{frame.f_code.co_name} of {where}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def _counting(original: Any, seen: Seen, ghost: bool) -> Any:
    def run(self: Any, *arguments: Any, **options: Any) -> Any:
        if ghost:
            return None
        result = original(self, *arguments, **options)
        if not options.get("warmup"):
            seen.launches = (seen.launches or 0) + 1  # one that raised has launched nothing
        return result

    return run


def _launchers() -> list[tuple[Any, str]]:
    """Where Triton launches kernels, compiled and interpreted, if a solution imported it: class and method."""
    found = []
    for module, name, method in (
        ("triton.runtime.jit", "JITFunction", "run"),
        ("triton.runtime.interpreter", "GridExecutor", "__call__"),
    ):
        owner = getattr(sys.modules.get(module), name, None)
        if isinstance(owner, type) and method in vars(owner):
            found.append((owner, method))
    return found


def threads_left() -> int:
    """How many threads of the interpreter there are beside this one, without those of installed libraries.

    `threading` does not know all of them. Those that are about to end are waited for.
    """
    deadline = time.monotonic() + _ENDING_S
    while (left := _others()) and time.monotonic() < deadline:
        time.sleep(0.002)
    return left


def _others() -> int:
    own = threading.get_ident()
    return sum(not _of_a_library(frame) for thread, frame in _frames().items() if thread != own)


def _of_a_library(frame: Any) -> bool:
    """Whether what a thread was started with belongs to an installed package: a monitor of progress, say."""
    begun_in = ""
    while frame is not None:
        where = frame.f_code.co_filename
        begun_in = begun_in if where == threading.__file__ else where
        frame = frame.f_back
    return "-packages/" in begun_in


def synchronize(device: str) -> None:
    """Wait for all that was started on the device, whatever its stream."""
    if device != "cpu":
        torch.cuda.synchronize()
