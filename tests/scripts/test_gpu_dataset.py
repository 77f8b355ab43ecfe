"""scripts/gpu_dataset.py: the models and requests that it serves, and a dataset that is made to fit."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("gpu_dataset", SCRIPTS / "gpu_dataset.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


def test_lengths_are_those_of_the_trace(script: ModuleType) -> None:
    with (SCRIPTS / "data/azure_llm_2023_excerpt.csv").open() as file:
        rows = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]
    assert script.lengths(200, 1.0, 16000) == rows
    assert script.lengths(50, 1.0, 16000) == rows[::4]


def test_lengths_are_scaled_and_cut_but_never_empty(script: ModuleType) -> None:
    found = [length for request in script.lengths(200, 0.01, 20) for length in request]
    assert (min(found), max(found)) == (2, 20)


def test_a_model_keeps_its_widths_and_loses_layers(script: ModuleType) -> None:
    config = script.MODELS["qwen3_30b_a3b"].written()
    assert (config["num_hidden_layers"], config["hidden_size"], config["num_experts"]) == (4, 2048, 128)
    assert script.MODELS["qwen3_30b_a3b"].written(48)["num_hidden_layers"] == 48
    assert script.MODELS["deepseek_v3"].written()["first_k_dense_replace"] == 1  # one layer of each kind


def test_a_tiny_model_is_the_same_model_narrower(script: ModuleType) -> None:
    for model in script.MODELS.values():
        tiny, whole = model.written(tiny=True), model.written()
        assert tiny.keys() == whole.keys()
        assert tiny["architectures"] == whole["architectures"]
        assert tiny["hidden_size"] == 128


def write_captured(root: Path, count: int) -> None:
    from fib_plugin import ops
    from fib_plugin.dataset import layout
    from fib_plugin.schema import dump_pretty

    definition = ops.ALL["gemm"].definition(n=8, k=4)
    file = layout.definition_file(root, definition)
    file.parent.mkdir(parents=True)
    file.write_bytes(dump_pretty(definition))
    lines = []
    for number in range(count):
        inputs = {name: {"type": "random"} for name in definition.inputs}
        workload: dict[str, Any] = {"axes": {"M": number + 1}, "inputs": inputs, "uuid": f"w{number}"}
        lines.append(
            json.dumps({"definition": definition.name, "workload": workload, "solution": None, "evaluation": None})
        )
    file = layout.workloads_file(root, definition)
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines) + "\n")


def test_what_models_wrote_is_merged_curated_and_checked(script: ModuleType, tmp_path: Path) -> None:
    write_captured(tmp_path / "a", 60)
    report = script.dataset(tmp_path, ["a", "failed"], 50, 5.0)
    assert report["valid"], report["problems"]
    assert (report["total"]["workloads"], report["total"]["kept"], report["keep"]) == (60, 50, 50)
    assert report["validated"]["workloads"] == 50


def test_a_dataset_that_is_too_large_keeps_fewer_workloads(script: ModuleType, tmp_path: Path) -> None:
    write_captured(tmp_path / "a", 60)
    report = script.dataset(tmp_path, ["a"], 50, 0.006)
    assert report["small_enough"]
    assert report["total"]["kept"] == report["keep"] < 50
    assert report["mib_by_keep"][50] > 0.006


def test_without_any_model_there_is_no_dataset(script: ModuleType, tmp_path: Path) -> None:
    assert "error" in script.dataset(tmp_path, ["failed"], 50, 5.0)
