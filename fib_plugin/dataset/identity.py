"""When two records are the same: workloads by what they compute on, not by uuid or by where their blobs lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from fib_plugin.dataset.blobs import content_of
from fib_plugin.schema import SafetensorsInput, Trace


def canonical(value: Any) -> str:
    """sha256 over JSON data, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def blob_path(path: str) -> str:
    """One spelling for a blob's path: './blob/x' and 'blob//x' are 'blob/x'."""
    return str(PurePosixPath(path))


class Identity:
    """Content keys of the workloads of one dataset. Each tensor is hashed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hashes: dict[tuple[str, str], str] = {}

    def key(self, trace: Trace) -> str:
        """The same for the same definition, axes and inputs. SchemaError when a blob is missing or broken."""
        inputs: dict[str, Any] = {}
        for name, source in trace.workload.inputs.items():
            content = source.model_dump(mode="json")
            if isinstance(source, SafetensorsInput):
                del content["path"], content["tensor_key"]
                content["content"] = self._hash(blob_path(source.path), source.tensor_key)
            inputs[name] = content
        return canonical([trace.definition, trace.workload.axes, inputs])

    def _hash(self, path: str, tensor_key: str) -> str:
        known = self._hashes.get((path, tensor_key))
        if known is None:
            known = self._hashes[path, tensor_key] = content_of(self._root / path, tensor_key)
        return known
