"""Safetensors files: what one holds, read from its header alone, and the content hash of a tensor."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from fib_plugin.schema import Definition, DType, SafetensorsInput, SchemaError, Workload

_MAX_HEADER = 100_000_000
_CHUNK = 1 << 20

_DTYPES = {
    "F32": DType.FLOAT32,
    "F16": DType.FLOAT16,
    "BF16": DType.BFLOAT16,
    "F8_E4M3": DType.FLOAT8_E4M3FN,
    "F8_E5M2": DType.FLOAT8_E5M2,
    "F4": DType.FLOAT4_E2M1,
    "I64": DType.INT64,
    "I32": DType.INT32,
    "I16": DType.INT16,
    "I8": DType.INT8,
    "BOOL": DType.BOOL,
}
_PACKED = frozenset({"U8", "I8", "F4"})
"""How two 4-bit values in a byte may be stored; the last dimension is then half as long."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file. `start` and `end` are its place in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(file: Path) -> dict[str, Stored]:
    """Tensors of a safetensors file by key; SchemaError when the file is missing, torn or something else."""
    try:
        with file.open("rb") as stream:
            return _header(stream, file)
    except FileNotFoundError:
        raise SchemaError("the blob does not exist", file=file, remedy="restore it, or remove its workload") from None
    except OSError as error:
        raise SchemaError(f"the blob cannot be read: {error}", file=file, remedy="see its owner and mode") from error
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        raise _broken(file, f"its header is damaged ({error})") from error


def _header(stream: BinaryIO, file: Path) -> dict[str, Stored]:
    size = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(_MAX_HEADER, size - 8):
        raise _broken(file, "its header is cut off")
    header: dict[str, Any] = msgspec.json.decode(stream.read(length))
    data = 8 + length
    tensors = {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        if not 0 <= start <= end <= size - data:
            raise _broken(file, f"the data of {key!r} are cut off")
        tensors[key] = Stored(entry["dtype"], tuple(entry["shape"]), data + start, data + end)
    return tensors


def _broken(file: Path, why: str) -> SchemaError:
    return SchemaError(f"no safetensors file: {why}", file=file, remedy="restore it, or remove its workload")


def content_of(file: Path, key: str) -> str:
    """sha256 over type, shape and bytes of one tensor: the same content in another file has the same hash."""
    stored = read_header(file).get(key)
    if stored is None:
        raise SchemaError(f"the blob holds no tensor {key!r}", file=file, remedy="correct tensor_key")
    digest = hashlib.sha256(f"{stored.dtype}{list(stored.shape)}".encode())
    with file.open("rb") as stream:
        stream.seek(stored.start)
        left = stored.end - stored.start
        while left:
            chunk = stream.read(min(_CHUNK, left))
            if not chunk:
                raise _broken(file, "it ends early")
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def file_hash(file: Path) -> str:
    """sha256 over a whole file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def blobs_of(workload: Workload) -> dict[str, SafetensorsInput]:
    """The inputs of a workload that come from files."""
    return {name: source for name, source in workload.inputs.items() if isinstance(source, SafetensorsInput)}


def mismatch(stored: Stored, definition: Definition, name: str, axes: dict[str, int]) -> str | None:
    """None when a stored tensor is what the definition says of input `name`, else what differs."""
    spec = definition.inputs[name]
    if spec.dtype is DType.FLOAT4_E2M1 and stored.dtype in _PACKED:
        return None
    if _DTYPES.get(stored.dtype) is not spec.dtype:
        return f"holds {stored.dtype}, the definition says {spec.dtype.value}"
    if spec.shape is None:
        return None if prod(stored.shape) == 1 else f"holds the shape {list(stored.shape)} for a scalar"
    sizes = {**axes, **definition.const_axes}
    if any(axis not in sizes for axis in spec.shape):
        return None  # an unbound axis is a problem of its own
    wanted = tuple(sizes[axis] for axis in spec.shape)
    return None if stored.shape == wanted else f"holds the shape {list(stored.shape)}, the axes say {list(wanted)}"
