"""Oracle: the process that computes what is right. It runs a definition's reference and never a solution.

Forked for `fib_plugin.bench.referee`, in the same sandbox as a solution, whose process cannot look into it.
"""

from __future__ import annotations

import ctypes
import socket
import sys
import time

import torch

from fib_plugin.bench import serving, wire
from fib_plugin.bench.blob import Blob
from fib_plugin.bench.outputs import store
from fib_plugin.bench.reference import Reference
from fib_plugin.schema import Definition, parse

_PR_SET_DUMPABLE = 4


class Oracle:
    """One definition's reference at a time, and the memory that its inputs come in."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._reference: Reference | None = None
        self._blobs: dict[str, Blob] = {}
        self.answers: serving.Answers = {
            wire.Attach: self._attach,
            wire.Detach: self._detach,
            wire.Learn: self._learn,
            wire.Refer: self._refer,
        }

    def _attach(self, request: wire.Attach) -> wire.Reply:
        _, descriptors, _, _ = socket.recv_fds(self._line, 1, 1)
        self._blobs[request.blob] = Blob(request.size, descriptors[0])
        return wire.Ready()

    def _detach(self, request: wire.Detach) -> wire.Reply:
        self._blobs.pop(request.blob).close()
        return wire.Ready()

    def _learn(self, request: wire.Learn) -> wire.Reply:
        self._reference = Reference(parse(Definition, request.definition))
        return wire.Ready()

    def _refer(self, request: wire.Refer) -> wire.Reply:
        assert self._reference is not None
        blob = self._blobs[request.blob]
        inputs = blob.arguments(request.layout.inputs)
        start = time.perf_counter()
        outputs = self._reference(inputs)
        seconds = time.perf_counter() - start
        return wire.Referred(store(outputs, blob, request.layout), seconds)


def main(descriptor: int, threads: int, notes: list[str] | None = None) -> None:
    """Serve on an inherited socket until it closes."""
    if sys.platform == "linux":  # where Landlock does not, this keeps others of the same user out of its memory
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    torch.set_grad_enabled(False)
    serving.run(lambda line: Oracle(line).answers, descriptor, threads, notes)
