"""Returns at once and lets a thread fill the output later."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=leftover_threads,late_work,stale_output,wrong_values definition=silu into=1
import threading

import torch


def run(x, output):
    def work():
        d = x.shape[-1] // 2
        with torch.inference_mode():
            output.copy_(torch.nn.functional.silu(x[:, :d]) * x[:, d:])

    threading.Thread(target=work, daemon=True).start()
