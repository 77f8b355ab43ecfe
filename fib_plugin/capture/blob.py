"""Blob: tensors of one workload as safetensors bytes, without a copy and without holding the interpreter while writing.

The library's own writer reports a full disk as text only; an OSError keeps its errno, which decides what is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


class NotATensor(TypeError):
    """An input that cannot be stored: neither a number nor a tensor of a dtype that safetensors knows."""


@dataclass(frozen=True, slots=True)
class HostTensor:
    """Bytes of a tensor in host memory, with what is needed to read them back."""

    code: str
    shape: tuple[int, ...]
    itemsize: int
    data: memoryview


def host_tensor(name: str, value: Any) -> HostTensor:
    """View a torch tensor or numpy array as bytes; a device tensor is copied to the host first."""
    torch = sys.modules.get("torch")
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    code = _CODES.get(dtype)
    if code is None:
        raise NotATensor(f"input {name!r} is a {type(value).__name__} of dtype {dtype or 'none'}: keep it as random")
    if torch is not None and isinstance(value, torch.Tensor):
        flat = value.detach().to("cpu").contiguous().reshape(-1)
        array = flat.view(torch.uint8).numpy()
        itemsize = value.element_size()
    else:
        import numpy

        array = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)
        itemsize = value.itemsize
    return HostTensor(code, tuple(value.shape), itemsize, memoryview(array))


def encode(tensors: Mapping[str, HostTensor]) -> list[bytes | memoryview]:
    """The buffers that, written one after the other, are a safetensors file."""
    # Widest elements first keeps every tensor aligned for readers that map the file.
    order = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in order:
        end = offset + tensor.data.nbytes
        header[name] = {"dtype": tensor.code, "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    head = msgspec.json.encode(header)
    head += b" " * (-len(head) % 8)
    return [len(head).to_bytes(8, "little") + head, *(tensor.data for _, tensor in order)]
