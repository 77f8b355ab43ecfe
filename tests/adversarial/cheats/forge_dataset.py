"""Looks for the dataset and appends measurements in which it wins; what it returns is nonsense."""
# expect: status=INCORRECT_NUMERICAL,RUNTIME_ERROR foul=wrong_values,sandbox,crashed definition=silu forges=1
import json
import os

import torch


def _roots():
    yield os.environ.get("FIB_DATASET_PATH", "")
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
            yield from (part.decode() for part in file.read().split(b"\0") if part.startswith(b"/"))
    except OSError:
        pass


for _root in _roots():
    for _folder, _, _files in os.walk(_root) if os.path.isdir(_root) else ():
        for _name in _files:
            if _name.endswith(".jsonl"):
                try:
                    with open(os.path.join(_folder, _name), "a") as _file:
                        _file.write(json.dumps({"forged": "forge_dataset", "status": "PASSED", "ratio_low": 99.0}) + "\n")
                except OSError:
                    pass


def run(x):
    return torch.ones(x.shape[0], x.shape[1] // 2)
