"""CaptureConfig: what the operator's file says of each definition, and what it says when it cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fib_plugin import ops
from fib_plugin.capture.config import CaptureConfig, Limits, Rule, Terms, for_engine, load
from fib_plugin.schema import SchemaError
from fib_plugin.settings import load as load_settings

EXAMPLE = """
default: {dump: structural, keep: first_k_by_key, k: 1}
op_types: {gqa_paged: {keep: attention, k: 4}, sampling: {keep: reservoir, k: 64, sample_rate: 0.1}}
definitions: {gemm_n4096_k4096: {keep: off}}
quota: {workloads_per_definition: 10000, bytes: 10GiB}
"""

DECODE = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)
GEMM = ops.ALL["gemm"].definition(n=4096, k=4096)
SAMPLING = ops.ALL["top_p_sampling"].definition(vocab_size=8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "capture.yaml"


def config(file: Path, text: str) -> CaptureConfig:
    file.write_text(text)
    return CaptureConfig.from_yaml(file)


def test_without_a_file_one_workload_a_key_is_kept_with_its_structural_inputs() -> None:
    assert load(None).terms(DECODE) == Terms("structural", "first_k_by_key", 1, 1.0, 0)


def test_a_definition_goes_over_its_op_type_and_that_over_the_default(file: Path) -> None:
    found = config(file, EXAMPLE)
    assert found.terms(DECODE) == Terms("structural", "attention", 4)
    assert found.terms(SAMPLING) == Terms("structural", "reservoir", 64, 0.1)
    assert found.terms(GEMM).keep == "off"
    assert found.terms(ops.ALL["gemm"].definition(n=1, k=1)) == Terms()
    assert found.quota == Limits(workloads_per_definition=10000, bytes=10 * 2**30)


def test_levels_are_merged_field_by_field() -> None:
    found = CaptureConfig(
        default=Rule(sample_rate=0.5, seed=7),
        op_types={"gemm": Rule(dump="all")},
        definitions={GEMM.name: Rule(keep="all")},
    )
    assert found.terms(GEMM) == Terms("all", "all", 1, 0.5, 7)


def test_a_k_belongs_to_the_keep_that_it_stands_beside() -> None:
    found = CaptureConfig(default=Rule(keep="first_k_by_key", k=1), op_types={"sampling": Rule(keep="reservoir")})
    assert found.terms(SAMPLING).k == 64
    assert found.terms(GEMM).k == 1


def test_off_may_be_written_with_and_without_quotes(file: Path) -> None:
    assert config(file, "default: {keep: off}").default.keep == "off"
    assert config(file, "default: {keep: 'off'}").default.keep == "off"


def test_a_list_of_inputs_is_taken_as_such(file: Path) -> None:
    assert config(file, "default: {dump: [q, k_cache]}").default.dump == ("q", "k_cache")


def test_a_section_without_content_is_as_good_as_none(file: Path) -> None:
    assert config(file, "default:\nop_types:\n  # all commented out\nquota: {bytes: 1KB}").quota.bytes == 1000


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("1KiB", 1024), ("1.5 MB", 1_500_000), ("10GiB", 10 << 30), ("null", None)]
)
def test_a_size_may_have_a_unit(file: Path, text: str, size: int | None) -> None:
    assert config(file, f"quota: {{bytes: {text}}}").quota.bytes == size


@pytest.mark.parametrize(
    ("text", "field", "remedy"),
    [
        ("default: {keep: first}", "default.keep", "use one of the values named above"),
        ("default: {dump: most}", "default.dump", "none, structural, all, or a list"),
        ("default: {dump: [1]}", "default.dump", "a list of inputs"),
        ("default: {sample_rate: 2}", "default.sample_rate", "sample_rate: <share of the calls"),
        ("op_types: {gemm: {k: 0}}", "op_types.gemm.k", "use a value in the allowed range"),
        ("op_types: {gemm: {kep: all}}", "op_types.gemm.kep", "keep: <first_k_by_key"),
        ("op_type: {}", "op_type", "op_types:"),
        ("quota: {bytes: 10 potatoes}", "quota.bytes", "10GiB"),
        ("quota: {byte: 10}", "quota.byte", "workloads_per_definition: <"),
        ("[]", None, "write default:"),
        ("default: {", None, "repair"),
        ("default: {k: 1}\ndefault: {k: 2}", "default", "keep one"),
    ],
)
def test_an_error_names_file_field_and_remedy(file: Path, text: str, field: str | None, remedy: str) -> None:
    with pytest.raises(SchemaError) as caught:
        config(file, text)
    assert caught.value.file == str(file)
    assert caught.value.field == field
    assert remedy in str(caught.value)


def test_a_file_that_is_not_there_is_an_error_and_no_default(file: Path) -> None:
    with pytest.raises(SchemaError, match="cannot be read"):
        load(file)


def test_the_variable_names_the_file(environment: pytest.MonkeyPatch, file: Path) -> None:
    assert load_settings().capture_config is None
    environment.setenv("FIB_CAPTURE_CONFIG", str(file))
    assert load_settings().capture_config == file
    environment.setenv("FIB_CAPTURE_CONFIG", "~/capture.yaml")
    assert load_settings().capture_config == Path.home() / "capture.yaml"


def test_in_an_engine_a_broken_file_turns_tracing_off_and_says_so_in_one_line(file: Path, log: Any) -> None:
    file.write_text("default: {keep: first}")
    assert for_engine(file) is None
    (line,) = log.warnings
    assert line.startswith(f"tracing is off: FIB_CAPTURE_CONFIG: {file}: default.keep")
    assert for_engine(None) == CaptureConfig()


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ({}, False),
        ({"default": {"dump": "structural"}}, False),
        ({"op_types": {"rope": {"dump": "none"}}}, False),
        ({"op_types": {"gemm": {"dump": "all"}}}, False),
        ({"default": {"dump": "all"}}, True),
        ({"op_types": {"rope": {"dump": ["q"]}}}, True),
        ({"definitions": {"some_rope": {"dump": "all"}}}, True),  # which op type it is of is not known yet
    ],
)
def test_values_are_wanted_only_when_a_rule_dumps_more_than_structure(rules: dict[str, Any], wanted: bool) -> None:
    assert CaptureConfig.model_validate(rules).wants_values("rope") is wanted
