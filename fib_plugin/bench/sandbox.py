"""Sandbox: what a solution child gives up before it reads a solution. What is missing here is said, never hidden.

The fork server's children call it first of all, while they have one thread: Landlock binds the thread that asks and
those it starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fib_plugin.bench import landlock

_FILE_BYTES = 4 << 30
_OPEN_FILES = 4096
_CLONE_VFORK, _CLONE_THREAD = 0x4000, 0x10000
_PR_SET_CHILD_SUBREAPER = 36

#: Files of the system that libraries look at; folders with all that is in them.
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/sys", "/etc/ld.so.cache", "/etc/ld.so.conf"),
    *("/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/version", "/proc/devices"),
    *("/proc/sys", "/proc/driver", "/proc/modules", "/proc/loadavg", "/proc/uptime"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

#: Refused with EPERM. `socket` is the network and every local service; `socketpair` stays.
_REFUSED = (
    *("socket", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "fork"),
    *("mount", "umount2", "move_mount", "open_tree", "fsopen", "pivot_root", "chroot", "unshare", "setns"),
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "keyctl", "add_key", "request_key"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "reboot", "swapon", "swapoff"),
    *("clock_settime", "settimeofday", "clock_adjtime", "adjtimex", "sethostname", "acct", "quotactl"),
)
#: More cores than the displaced op has would be a win that no engine sees.
_REFUSED_ON_CPUS = ("sched_setaffinity",)


def confine(scratch: Path, readable: Sequence[Path], device: str, memory_bytes: int | None) -> list[str]:
    """Give up network, other processes, files outside ``scratch`` and growth beyond ``memory_bytes``, for good.

    ``memory_bytes`` counts from here and bounds the address space only where no CUDA is: CUDA reserves far more than
    it uses.

    Returns:
        Protections that this host lacks, in words.
    """
    if sys.platform != "linux":
        return ["no sandbox on this system: it needs Linux"]
    notes = []
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what it starts stays below it, where it can be ended
    if len(os.listdir("/proc/self/task")) > 1:
        notes.append("threads were running before the sandbox: Landlock does not bind them")
    readables = [Path(path) for path in _SYSTEM] + _interpreter() + list(readable)
    writables = [Path(path) for path in _DEVICES] + [Path(f"/proc/{os.getpid()}")]
    if device != "cpu":
        writables += [*Path("/dev").glob("nvidia*"), Path("/dev/dri"), Path("/dev/kfd")]
    notes += landlock.restrict(readables, writables, [scratch])
    notes += _drop_capabilities()
    _limit(device, memory_bytes)
    if device != "cpu":
        notes += _start_device()
    return notes + _filter_calls(_REFUSED if device != "cpu" else (*_REFUSED, *_REFUSED_ON_CPUS))


def _interpreter() -> list[Path]:
    """Where Python and what it imports lie, editable installs included."""
    paths = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]
    paths += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    paths += [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH", "ROCM_HOME")]
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            paths += list(getattr(module, "MAPPING", {}).values())
    own = [Path(path) for path in __import__("fib_plugin").__path__]
    # scripts/lay_out.py makes a package of links, and what a link leads to is not below the package.
    links = [entry for path in own if path.is_dir() for entry in path.iterdir() if entry.is_symlink()]
    paths += [str(path) for path in (*own, *links)]
    return [Path(path) for path in dict.fromkeys(paths) if path and path != "/"]


def _limit(device: str, memory_bytes: int | None) -> None:
    import resource

    def cap(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))

    cap(resource.RLIMIT_CORE, 0)
    cap(resource.RLIMIT_NOFILE, _OPEN_FILES)
    cap(resource.RLIMIT_FSIZE, _FILE_BYTES)
    if memory_bytes is not None and device == "cpu":
        cap(resource.RLIMIT_DATA, _status("VmData") + memory_bytes)
        # Shared memory counts here only; input blobs do too, so there is room for them.
        cap(resource.RLIMIT_AS, _status("VmSize") + 2 * memory_bytes + (16 << 30))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _drop_capabilities() -> list[str]:
    """Root keeps the right to read its own files and no other privilege (raising limits, tracing, devices)."""
    keep = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; Landlock still rules over both
    if os.geteuid() != 0:
        keep = 0
    head = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    libc = ctypes.CDLL(None, use_errno=True)
    now = ctypes.create_string_buffer(24)
    if libc.capget(head, now):
        return ["capabilities could not be read"]
    effective, permitted, *_ = struct.unpack("=6I", now.raw)
    data = ctypes.create_string_buffer(struct.pack("=6I", effective & keep, permitted & keep, 0, 0, 0, 0), 24)
    if libc.capset(head, data):
        return [f"capabilities could not be dropped: {os.strerror(ctypes.get_errno())}"]
    return []


def _start_device() -> list[str]:
    """Start CUDA and cuBLAS: they open sockets and fork helpers, which the filter refuses, when they are first used.

    After Landlock, which so binds CUDA's threads; the filter binds those that run already.
    """
    try:
        import torch

        torch.cuda.init()  # type: ignore[no-untyped-call]
        square = torch.ones(16, 16, device="cuda")
        torch.mm(square, square)
        torch.cuda.synchronize()
    except (RuntimeError, AssertionError) as error:
        return [f"CUDA does not start inside the sandbox: {error}"]
    return []


def _filter_calls(refused: Sequence[str]) -> list[str]:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        return [
            f"no seccomp filter ({error}): sockets and forks are not refused; "
            "install pyseccomp and libseccomp to have it"
        ]
    module: Any = pyseccomp
    try:
        rules = module.SyscallFilter(module.ALLOW)
        rules.set_attr(module.Attr.CTL_TSYNC, 1)  # threads of torch as well
        for name in refused:
            with contextlib.suppress(ValueError, OSError):  # not a call of this architecture or library
                rules.add_rule(module.ERRNO(errno.EPERM), name)
        # A process may be started (compilers are), not copied: a fork has neither of these flags.
        unforked = module.Arg(0, module.MASKED_EQ, _CLONE_VFORK | _CLONE_THREAD, 0)
        rules.add_rule(module.ERRNO(errno.EPERM), "clone", unforked)
        rules.add_rule(module.ERRNO(errno.ENOSYS), "clone3")  # its flags cannot be seen; libc then uses clone
        rules.load()
    except (OSError, ValueError, RuntimeError) as error:
        return [f"the seccomp filter could not be set: {error}"]
    return []
