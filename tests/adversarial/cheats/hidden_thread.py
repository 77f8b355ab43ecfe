"""Works on a raw thread that `threading` does not list, and makes the counting functions lie."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=patched,leftover_threads,late_work,stale_output,wrong_values definition=silu into=1
import _thread
import threading
import time

import torch

threading.active_count = lambda: 1
threading.enumerate = lambda: [threading.main_thread()]


def run(x, output):
    def work():
        time.sleep(0.0002)
        d = x.shape[-1] // 2
        with torch.inference_mode():
            output.copy_(torch.nn.functional.silu(x[:, :d]) * x[:, d:])

    _thread.start_new_thread(work, ())
