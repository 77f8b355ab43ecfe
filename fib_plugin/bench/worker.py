"""The child: builds and runs what the parent names, and returns raw outputs and raw times. It judges nothing.

Started by `fib_plugin.bench.child`. It never holds a reference output, a tolerance or a seed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fib_plugin.bench import wire
from fib_plugin.bench.blob import Blob, spoil
from fib_plugin.bench.timing import Contestant, measure
from fib_plugin.build import BuildError, Runnable, build
from fib_plugin.schema import Definition, Solution, parse

_PR_SET_PDEATHSIG = 1
_LOG_CHARS = 8000


class Worker:
    """State of one child: solutions built, blobs attached, input sets to time on."""

    def __init__(self, line: socket.socket, device: str, threads: int) -> None:
        self._line = line
        self._device = device
        self._threads = threads
        self._runnables: dict[str, Runnable] = {}
        self._blobs: dict[str, Blob] = {}
        self._sets: list[list[Any]] = []
        self._handlers: dict[type, Callable[[Any], wire.Reply]] = {
            wire.Attach: self._attach,
            wire.Detach: self._detach,
            wire.Load: self._load,
            wire.Run: self._run,
            wire.Draw: self._draw,
            wire.Prepare: self._prepare,
            wire.Time: self._time,
            wire.Again: self._again,
        }

    def serve(self) -> None:
        """Answer requests until the parent is gone."""
        wire.send(self._line, wire.Ready())
        with torch.inference_mode():
            while True:
                try:
                    request = wire.receive_request(self._line)
                except wire.WireError:
                    return
                reply = self._answer(request)
                sys.stdout.flush()
                sys.stderr.flush()
                wire.send(self._line, reply)

    def _answer(self, request: wire.Request) -> wire.Reply:
        key = getattr(request, "key", "")
        try:
            return self._handlers[type(request)](request)
        except BuildError as error:
            return wire.Failed(key, True, str(error)[:_LOG_CHARS])
        except _BaselineFailed as error:
            return wire.Failed(error.key, False, error.log[-_LOG_CHARS:])
        except (Exception, SystemExit):
            return wire.Failed(key, False, _own_frames(traceback.format_exc())[-_LOG_CHARS:])

    def _attach(self, request: wire.Attach) -> wire.Reply:
        _, descriptors, _, _ = socket.recv_fds(self._line, 1, 1)
        self._blobs[request.blob] = Blob(request.size, descriptors[0])
        return wire.Ready()

    def _detach(self, request: wire.Detach) -> wire.Reply:
        self._blobs.pop(request.blob).close()
        return wire.Ready()

    def _load(self, request: wire.Load) -> wire.Reply:
        if request.key not in self._runnables:
            solution, definition = parse(Solution, request.solution), parse(Definition, request.definition)
            self._runnables[request.key] = build(solution, definition, Path(request.cache))
            torch.set_num_threads(self._threads)  # an engine's import may have changed it
        return wire.Ready()

    def _run(self, request: wire.Run) -> wire.Reply:
        blob, layout = self._blobs[request.blob], request.layout
        shared = blob.arguments(layout.inputs)
        inputs = self._here(shared)
        start = time.perf_counter()
        outputs = self._call(self._runnables[request.key], inputs, blob, layout)
        seconds = time.perf_counter() - start
        self._bring_back(shared, inputs)
        return wire.Ran(outputs, seconds)

    def _draw(self, request: wire.Draw) -> wire.Reply:
        blob, layout = self._blobs[request.blob], request.layout
        inputs = self._here(blob.arguments(layout.inputs))
        (place,) = layout.outputs
        rows = blob.tensor(place)
        row = wire.Layout([], [wire.TensorArg(place.dtype, place.shape[1:], place.offset)], 0)
        runnable = self._runnables[request.key]
        start, calls = time.perf_counter(), 0
        outputs: list[wire.Output] = []
        while calls < request.calls:
            spent = time.perf_counter() - start
            if (spent > request.seconds and calls >= request.least) or spent > request.limit_s:
                break
            outputs = self._call(runnable, inputs, blob, row)
            if calls:
                rows[calls].copy_(rows[0])
            else:
                first = rows[0].clone()
            calls += 1
        if calls:
            rows[0].copy_(first)
        return wire.Drawn(calls, outputs)

    def _prepare(self, request: wire.Prepare) -> wire.Reply:
        blob = self._blobs[request.blob]
        self._sets = []  # free the old ones first
        self._sets = [
            [value.to(self._device, copy=True) if isinstance(value, torch.Tensor) else value for value in arguments]
            for arguments in (blob.arguments(layout.inputs) for layout in request.layouts)
        ]
        return wire.Ready()

    def _time(self, request: wire.Time) -> wire.Reply:
        contestants = [self._contestant(request.key)]
        if request.baseline is not None:
            contestants += self._trusted(request.baseline)
        found = measure(contestants, request.seconds, self._device)
        return wire.Timed(found[0], *found[1:]) if len(found) > 1 else wire.Timed(found[0], [])

    def _contestant(self, key: str) -> Contestant:
        runnable = self._runnables[key]
        if runnable.setup is None:
            return runnable.call, self._sets
        return _ready, [[runnable.setup(*arguments)] for arguments in self._sets]

    def _trusted(self, key: str) -> list[Contestant]:
        """The displaced op and its toll, after one trial call that tells their failures from the solution's."""
        try:
            trusted = [self._contestant(key)]
            toll = self._runnables[key].toll
            if toll is not None:
                trusted.append((_ready, [[toll(*arguments)] for arguments in self._sets]))
            for call, sets in trusted:
                call(*sets[0])
        except Exception as error:
            raise _BaselineFailed(key, traceback.format_exc()) from error
        return trusted

    def _again(self, request: wire.Again) -> wire.Reply:
        blob, layout, inputs = self._blobs[request.blob], request.layout, self._sets[request.index]
        for index, value in enumerate(blob.arguments(layout.inputs)):
            if isinstance(value, torch.Tensor):
                inputs[index].copy_(value)
            else:
                inputs[index] = value
        start = time.perf_counter()
        outputs = self._store(self._runnables[request.key].call(*inputs), blob, layout)
        return wire.Ran(outputs, time.perf_counter() - start)

    def _here(self, shared: Sequence[Any]) -> list[Any]:
        if self._device == "cpu":
            return list(shared)
        return [value.to(self._device) if isinstance(value, torch.Tensor) else value for value in shared]

    def _bring_back(self, shared: Sequence[Any], inputs: Sequence[Any]) -> None:
        """The parent looks for changed inputs; on a CPU the solution worked on the shared memory itself."""
        if self._device != "cpu":
            for target, value in zip(shared, inputs, strict=True):
                if isinstance(target, torch.Tensor):
                    target.copy_(value)

    def _call(self, runnable: Runnable, inputs: list[Any], blob: Blob, layout: wire.Layout) -> list[wire.Output]:
        if not runnable.solution.spec.destination_passing_style:
            return self._store(runnable.call(*inputs), blob, layout)
        places = [blob.tensor(place) for place in layout.outputs]
        for place in places:
            spoil(place)
        outputs = self._here(places)
        runnable.into(*inputs, *outputs)
        self._bring_back(places, outputs)
        return [_describe(output) for output in outputs]

    def _store(self, result: Any, blob: Blob, layout: wire.Layout) -> list[wire.Output]:
        values = result if type(result) is tuple else (result,)
        described = [_describe(value) for value in values]
        for value, output, place in zip(values, described, layout.outputs, strict=False):
            if output.kind == "torch.Tensor" and (output.dtype, output.shape) == (place.dtype, place.shape):
                blob.tensor(place).copy_(value)
        return described


class _BaselineFailed(Exception):
    """The displaced op raised, which is no fault of the solution."""

    def __init__(self, key: str, log: str) -> None:
        super().__init__(log)
        self.key, self.log = key, log


def _ready(call: Callable[[], Any]) -> Any:
    return call()


def _describe(value: Any) -> wire.Output:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if type(value) is not torch.Tensor:
        return wire.Output(kind)
    return wire.Output(kind, str(value.dtype).removeprefix("torch."), tuple(value.shape), value.device.type)


def _own_frames(text: str) -> str:
    """A traceback from the solution's first frame on."""
    lines = text.splitlines()
    head, rest = lines[:1], lines[1:]
    while rest and rest[0].startswith('  File "') and ("fib_plugin" in rest[0] or '"<call>"' in rest[0]):
        rest = rest[1:]
        while rest and rest[0].startswith("    "):
            rest = rest[1:]
    return "\n".join(head + rest)


def main(descriptor: int, device: str, threads: int) -> None:
    """Serve on an inherited socket until it closes."""
    if sys.platform == "linux":  # a parent that was killed cannot end us
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.enable()
    torch.set_num_threads(threads)
    torch.seed()
    try:
        Worker(socket.socket(fileno=descriptor), device, threads).serve()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # threads that a solution left behind must not keep the process
