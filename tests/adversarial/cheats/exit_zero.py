"""Leaves with exit code 0, which a careless parent takes for success."""
# expect: status=RUNTIME_ERROR foul=crashed definition=silu
import os


def run(x):
    os._exit(0)
