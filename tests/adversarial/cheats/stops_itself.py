"""Stops its own process, so that whoever waits for it waits for ever."""
# expect: status=TIMEOUT,RUNTIME_ERROR foul=timeout,crashed,sandbox definition=silu
import os
import signal


def run(x):
    os.kill(os.getpid(), signal.SIGSTOP)
