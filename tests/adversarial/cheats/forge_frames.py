"""Climbs the stack to the worker, wraps its answers, and divides every time that it reports."""
# expect: status=RUNTIME_ERROR foul=patched,time_mismatch,too_fast definition=silu
import sys

import msgspec
import torch

_done = False


def _forged(honest):
    def answer(request):
        reply = honest(request)
        return msgspec.structs.replace(reply, ns=reply.ns / 50) if hasattr(reply, "ns") else reply

    return answer


def _climb():
    frame = sys._getframe()
    while frame is not None:
        answers = frame.f_locals.get("answers")
        if isinstance(answers, dict):
            answers.update({kind: _forged(honest) for kind, honest in answers.items()})
            return
        frame = frame.f_back
    raise RuntimeError("no worker found")


def run(x):
    global _done
    if not _done:
        _climb()
        _done = True
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
