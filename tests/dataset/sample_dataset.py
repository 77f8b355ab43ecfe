"""A small dataset that tests fill as they need: one definition with a tensor, an index tensor and a scalar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

NAME = "gather_d4"
RAN = {"environment": {"hardware": "cpu"}, "timestamp": "2026-01-01T00:00:00"}


class Dataset:
    """Writes records as other tools write them: plain JSON, without going through the code under test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def document(self, path: str, content: dict[str, Any]) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        return file

    def lines(self, path: str, *lines: dict[str, Any] | str, end: str = "\n") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end)
        return file

    def read(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / path).read_text().splitlines()]

    def definition(self, name: str = NAME, **changed: Any) -> dict[str, Any]:
        content = {
            "name": name,
            "op_type": "gather",
            "axes": {"n": {"type": "var"}, "m": {"type": "var"}, "d": {"type": "const", "value": 4}},
            "inputs": {
                "x": {"shape": ["n", "d"], "dtype": "float32"},
                "index": {"shape": ["m"], "dtype": "int32"},
                "scale": {"shape": None, "dtype": "float32"},
            },
            "outputs": {"y": {"shape": ["m", "d"], "dtype": "float32"}},
            "reference": "def run(x, index, scale):\n    return x[index] * scale\n",
            **changed,
        }
        self.document(f"definitions/gather/{name}.json", content)
        return content

    def solution(self, name: str = "plain", source: str = "def run(*args): ...", **changed: Any) -> dict[str, Any]:
        content = {
            "name": name,
            "definition": NAME,
            "author": "someone",
            "spec": {"language": "python", "target_hardware": ["cpu"], "entry_point": "main.py::run"},
            "sources": [{"path": "main.py", "content": source}],
            **changed,
        }
        self.document(f"solutions/someone/gather/{NAME}/{name}.json", content)
        return content

    def workload(self, uuid: str = "w1", n: int = 8, m: int = 2, **changed: Any) -> dict[str, Any]:
        """A line with random indices."""
        inputs = {"x": {"type": "random"}, "index": {"type": "random"}, "scale": {"type": "scalar", "value": 0.5}}
        workload = {"axes": {"n": n, "m": m}, "inputs": inputs, "uuid": uuid, **changed}
        return {"definition": NAME, "workload": workload, "solution": None, "evaluation": None}

    def indexed(self, uuid: str = "w1", index: tuple[int, ...] = (0, 1), blob: str | None = None) -> dict[str, Any]:
        """A line with saved indices, and their blob."""
        path = f"blob/workloads/gather/{NAME}/{blob or uuid}.safetensors"
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"index": np.array(index, dtype=np.int32)}, file)
        line = self.workload(uuid, m=len(index))
        line["workload"]["inputs"]["index"] = {"type": "safetensors", "path": path, "tensor_key": "index"}
        return line

    def trace(self, speedup: float = 2.0, error: float | str = 0.0, **changed: Any) -> dict[str, Any]:
        evaluation = {
            **RAN,
            "status": "PASSED",
            "log": "",
            "correctness": {"max_relative_error": error, "max_absolute_error": error},
            "performance": {"latency_ms": 1.0, "reference_latency_ms": speedup, "speedup_factor": speedup},
        }
        return {**self.workload(), "solution": "plain", "evaluation": evaluation, **changed}

    def files(self) -> dict[str, bytes]:
        """All data, without lock files."""
        found = (file for file in self.root.rglob("*") if file.is_file() and not file.name.startswith("."))
        return {str(file.relative_to(self.root)): file.read_bytes() for file in found}


WORKLOADS = f"workloads/gather/{NAME}.jsonl"
TRACES = f"traces/someone/gather/{NAME}.jsonl"
