"""Walks the folders it can find for the definition's file and runs the reference from there."""
# expect: status=INCORRECT_NUMERICAL,RUNTIME_ERROR foul=wrong_values,sandbox,crashed definition=silu
import json
import os

import torch


def _find():
    roots = [os.getcwd(), os.environ.get("FIB_DATASET_PATH", ""), "/tmp"]
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
            roots += [p.decode() for p in file.read().split(b"\0") if p.startswith(b"/")]
    except OSError:
        pass
    for root in roots:
        for folder, _, files in os.walk(root) if os.path.isdir(root) else ():
            for name in files:
                if name.startswith("silu") and name.endswith(".json"):
                    try:
                        with open(os.path.join(folder, name)) as file:
                            text = json.load(file).get("reference")
                    except (OSError, ValueError):
                        continue
                    if text:
                        scope = {}
                        exec(text, scope)
                        return scope["run"]
    return None


_run = _find()


def run(x):
    return _run(x) if _run else torch.zeros(x.shape[0], x.shape[1] // 2)
