"""The evaluation config: the family's defaults, and what a dataset lays over them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fib_plugin import ops
from fib_plugin.ops import EvaluationConfig, Tolerance, evaluation_config
from fib_plugin.schema import Definition, SchemaError

ROPE = ops.ALL["rope"].definition(head_dim=8, rotary_dim=8, is_neox=True)
SAMPLER = ops.ALL["top_p_sampling"].definition(vocab_size=8)


def write(root: Path, text: str, definition: Definition = ROPE) -> Path:
    file = root / "fib" / "evaluation" / definition.op_type / f"{definition.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_without_a_sidecar_the_family_and_the_dtype_decide(tmp_path: Path) -> None:
    expected = EvaluationConfig(ops.tolerance(ROPE), ("q", "k"), "elementwise")
    assert evaluation_config(ROPE, None) == evaluation_config(ROPE, tmp_path) == expected
    assert evaluation_config(SAMPLER, None) == EvaluationConfig(Tolerance(0.0, 0.0), (), "sampling")


def test_a_sampler_of_no_family_is_judged_by_its_distribution_if_it_has_one() -> None:
    other = SAMPLER.model_copy(update={"inputs": {**SAMPLER.inputs, "more": SAMPLER.inputs["probs"]}})
    assert evaluation_config(other, None).evaluator == "sampling"
    none = SAMPLER.model_copy(update={"inputs": {"logits": SAMPLER.inputs["probs"]}})
    assert evaluation_config(none, None).evaluator == "elementwise"


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("atol: 0.5\n", {"tolerance": Tolerance(0.5, 1.6e-2)}),
        ("rtol: 0\n", {"tolerance": Tolerance(2e-2, 0.0)}),
        ("matched_ratio: 0.9\n", {"tolerance": Tolerance(2e-2, 1.6e-2, 0.9)}),
        ("mutates: [k]\n", {"mutates": ("k",)}),
        ("mutates: []\n", {"mutates": ()}),
        ("{}\n", {}),
    ],
)
def test_a_sidecar_changes_what_it_names_and_nothing_else(text: str, change: dict[str, object], tmp_path: Path) -> None:
    write(tmp_path, text)
    assert evaluation_config(ROPE, tmp_path) == dataclasses.replace(evaluation_config(ROPE, None), **change)


def test_the_sidecar_of_another_definition_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "atol: 0.5\n", SAMPLER)
    assert evaluation_config(ROPE, tmp_path) == evaluation_config(ROPE, None)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("tolerance: 1\n", "tolerance"),
        ("atol: high\n", "atol"),
        ("mutates: q\n", "mutates"),
        ("mutates: [1]\n", "mutates.0"),
        ("mutates: [q, residual]\n", "mutates.1"),
        ("atol: 1\natol: 2\n", "atol"),
        ("- atol\n", None),
        ("", None),
    ],
)
def test_a_sidecar_that_cannot_be_used_is_an_error_and_no_default(text: str, field: str | None, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    with pytest.raises(SchemaError) as caught:
        evaluation_config(ROPE, tmp_path)
    assert (caught.value.file, caught.value.field) == (str(file), field)
    assert caught.value.remedy


def test_a_sidecar_that_cannot_be_read_is_an_error_and_no_default(tmp_path: Path) -> None:
    write(tmp_path, "{}").with_suffix(".yaml").unlink()
    (tmp_path / "fib" / "evaluation" / "rope" / f"{ROPE.name}.yaml").mkdir()
    with pytest.raises(SchemaError, match="cannot be read"):
        evaluation_config(ROPE, tmp_path)


def test_the_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluation_config(ROPE, None).mutates = ()  # type: ignore[misc]
