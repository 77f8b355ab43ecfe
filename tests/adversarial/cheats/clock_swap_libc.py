"""Patches libc's clock_gettime in memory (its first bytes jump to a slow clock), so that every Python clock lies."""
# expect: status=RUNTIME_ERROR,COMPILE_ERROR,TIMEOUT foul=time_mismatch,timeout,patched,crashed,sandbox,too_fast definition=silu
import ctypes
import mmap

import torch

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Timespec))
def _slow(which, out):
    _libc.syscall(228, which, out)
    total = (out[0].s * 1_000_000_000 + out[0].ns) // 50
    out[0].s, out[0].ns = divmod(total, 1_000_000_000)
    return 0


_at = ctypes.cast(_libc.clock_gettime, ctypes.c_void_p).value
_page = _at & ~(mmap.PAGESIZE - 1)
if _libc.mprotect(ctypes.c_void_p(_page), mmap.PAGESIZE * 2, 7) == 0:
    _target = ctypes.cast(_slow, ctypes.c_void_p).value
    ctypes.memmove(_at, b"\x48\xb8" + _target.to_bytes(8, "little") + b"\xff\xe0", 12)
else:
    raise PermissionError("mprotect")


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
