"""Environment: what a child gets of its parent's variables. A solution child gets a list of allowed ones only."""

from __future__ import annotations

import os
import re
import site
from pathlib import Path

_ALLOWED = re.compile(
    r"(PATH|LANG|LC_.*|TZ|TERM|USER|LOGNAME|LD_LIBRARY_PATH|LD_PRELOAD|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV|CONDA_PREFIX"
    r"|CC|CXX|CUDA_.*|CUDAHOSTCXX|NVIDIA_.*|ROCM_.*|HIP_.*|TRITON_.*|TORCH.*|PYTORCH_.*|OMP_.*|MKL_.*|KMP_.*"
    r"|OPENBLAS_.*|GOMP_.*|MALLOC_.*|FLASHINFER_.*|VLLM_.*|SGLANG_.*|NCCL_.*|MAX_JOBS)"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PROXY|(^|_)KEY(_|$)|AUTH", re.IGNORECASE)


def environment(device: str, threads: int, scratch: Path, role: str) -> dict[str, str]:
    """Variables of a child in ``role``; caches and temporary files of a solution child go to ``scratch``."""
    found = dict(os.environ)
    if role == "solution":
        found = {name: value for name, value in found.items() if _ALLOWED.fullmatch(name) and not _SECRET.search(name)}
        base = site.getuserbase()
        found |= {"HOME": str(scratch), "TMPDIR": str(scratch), "PYTHONUSERBASE": base}
        for name, folder in (
            ("TRITON_CACHE_DIR", "triton"),
            ("TRITON_HOME", "triton-home"),
            ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
            ("TORCH_EXTENSIONS_DIR", "extensions"),
            ("TVM_FFI_CACHE_DIR", "tvm-ffi"),
            ("CUDA_CACHE_PATH", "nv"),
            ("XDG_CACHE_HOME", "cache"),
        ):
            found[name] = str(scratch / folder)
        found["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # its pool forks, which the sandbox refuses
    found |= {"FIB_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        found[name] = str(threads)
    if device == "cpu":
        # Triton reads this when it is imported; without it, it finds no driver and nothing runs.
        found.setdefault("TRITON_INTERPRET", "1")
    kind, _, index = device.partition(":")
    if kind == "cuda" and index:
        visible = [one for part in found.get("CUDA_VISIBLE_DEVICES", "").split(",") if (one := part.strip())]
        found["CUDA_VISIBLE_DEVICES"] = visible[int(index)] if int(index) < len(visible) else index
    return found
