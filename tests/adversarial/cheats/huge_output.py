"""Prints without end, to fill a disk or a pipe."""
# expect: status=RUNTIME_ERROR,TIMEOUT foul=sandbox,crashed,timeout definition=silu
import os


def run(x):
    for _ in range(1 << 14):
        os.write(1, b"x" * (1 << 16))
    os.abort()
