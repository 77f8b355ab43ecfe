"""Serving: what all children do alike: they start, answer until the parent is gone, and say what failed and how.

The worker and the referee call `run` with the answers that they have.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fib_plugin.bench import wire
from fib_plugin.bench.line import WireError, receive_request, send
from fib_plugin.build import BuildError

_PR_SET_PDEATHSIG = 1
_LOG_CHARS = 8000
_DENIED = (errno.EPERM, errno.EACCES, errno.ENOMEM)

#: What answers a request of each kind.
Answers = Mapping[type, Callable[[Any], wire.Reply]]


def run(
    make: Callable[[socket.socket], Answers], descriptor: int, threads: int, notes: list[str] | None = None
) -> None:
    """Serve on an inherited socket until it closes; then the process ends.

    Args:
        make: takes the line to the parent, returns the answers.
        descriptor: the socket.
        threads: of torch.
        notes: protections that its host lacks, for its first words.
    """
    if sys.platform == "linux":  # a parent that was killed cannot end us
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        faulthandler.enable()
        torch.set_num_threads(threads)
        torch.seed()
        line = socket.socket(fileno=descriptor)
        _serve(line, make(line), notes or [])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # threads that a solution left behind must not keep the process


def _serve(line: socket.socket, answers: Answers, notes: list[str]) -> None:
    send(line, wire.Ready(notes))
    with torch.inference_mode():
        while True:
            try:
                request = receive_request(line)
            except WireError:
                return
            reply = answer(answers, request)
            if type(request) is not wire.Burst:
                sys.stdout.flush()
                sys.stderr.flush()
            send(line, reply)


def answer(answers: Answers, request: wire.Request) -> wire.Reply:
    """The answer to a request, or in which way there is none."""
    key = getattr(request, "key", "")
    try:
        return answers[type(request)](request)
    except BuildError as error:
        return wire.Failed(key, True, str(error)[:_LOG_CHARS], _denied(error.__cause__))
    except (Exception, SystemExit) as error:
        return wire.Failed(key, False, _own_frames(traceback.format_exc())[-_LOG_CHARS:], _denied(error))


def _denied(error: BaseException | None) -> bool:
    """Whether the sandbox is what refused: a right, or memory."""
    if isinstance(error, OSError):
        return error.errno in _DENIED
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _own_frames(text: str) -> str:
    """A traceback from the solution's first frame on."""
    lines = text.splitlines()
    head, rest = lines[:1], lines[1:]
    while rest and rest[0].startswith('  File "') and ("fib_plugin" in rest[0] or '"<call>"' in rest[0]):
        rest = rest[1:]
        while rest and rest[0].startswith("    "):
            rest = rest[1:]
    return "\n".join(head + rest)


def pin(device: str, threads: int) -> None:
    """Use the same cores as the child that it takes turns with: on a busy host one core is not like another.

    To be called before the sandbox, which keeps a solution from having more cores than the op that it is held against.
    """
    if device == "cpu" and hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        if threads < len(allowed):
            os.sched_setaffinity(0, allowed[-threads:])
