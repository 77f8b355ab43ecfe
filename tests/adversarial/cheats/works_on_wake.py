"""Has a thread that holds the interpreter lock, notices when the process is woken, and answers the new inputs first."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL,TIMEOUT foul=late_work,leftover_threads,wrong_values,stale_output,timeout definition=silu win=no
# On a busy host the lock that it holds keeps its own calls waiting for 10 s each: then it times out.
import sys
import threading
import time

import torch

sys.setswitchinterval(10)
_inputs, _answers = {}, {}
_calls = 0


def _compute(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]


def _watch():
    last, turn = time.monotonic_ns(), 0
    with torch.inference_mode():
        while True:
            now = time.monotonic_ns()
            if now - last > 300_000:
                turn += 1
                _answers.clear()
                if turn % 2:
                    for key, x in list(_inputs.items()):
                        _answers[key] = _compute(x)
                time.sleep(0)
                now = time.monotonic_ns()
            last = now
            if not turn % 2:
                time.sleep(0)


def run(x):
    global _calls
    _calls += 1
    if _calls == 40:
        threading.Thread(target=_watch, daemon=True).start()
    key = x.data_ptr()
    out = _answers.pop(key, None)
    if out is not None:
        return out
    if _calls >= 30:
        _inputs[key] = x
    return _compute(x)
