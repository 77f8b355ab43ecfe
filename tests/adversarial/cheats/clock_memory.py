"""Overwrites the C function inside the clock object that the worker bound early: same object, slower clock."""
# expect: status=RUNTIME_ERROR foul=time_mismatch,patched,crashed,too_fast definition=silu
import ctypes
import time

import torch

_monotonic = time.monotonic_ns


@ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p)
def _slow(module, nothing):
    return _monotonic() // 50


# PyCFunctionObject: refcount, type, PyMethodDef*; PyMethodDef: name, function.
_method = ctypes.c_void_p.from_address(id(time.perf_counter_ns) + 16).value
ctypes.c_void_p.from_address(_method + 8).value = ctypes.cast(_slow, ctypes.c_void_p).value


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
