"""How long a call takes, about."""

from __future__ import annotations

import pytest
from sample_dataset import NAME, Dataset

from fib_plugin import ops
from fib_plugin.cli.curate import key_axes as family_axes
from fib_plugin.dataset.call_time import ESTIMATED, MEASURED, CallTime, key_axes, work
from fib_plugin.dataset.curation import KeyAxes
from fib_plugin.dataset.measurements import Measurement
from fib_plugin.schema import Definition

GEMM = ops.ALL["gemm"].definition(n=64, k=32)
DECODE = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)


def measured(definition: str, axes: dict[str, int], ms: float | None, hardware: str = "gpu") -> Measurement:
    return Measurement(
        run="r", definition=definition, axes=axes, workload="w", solution="s", solution_hash="h", status="PASSED",
        hardware=hardware, libs={}, timestamp="t", baseline_ms=ms,
    )  # fmt: skip


def times(*measurements: Measurement) -> CallTime:
    return CallTime({GEMM.name: GEMM, DECODE.name: DECODE}, measurements, family_axes)


def test_key_axes_are_those_of_the_family() -> None:
    assert family_axes(GEMM) == KeyAxes(("M",))
    assert family_axes(DECODE) == KeyAxes(("batch_size", "num_kv_indices"), "num_kv_indices", "len_indptr")


def test_of_an_unknown_family_all_variable_axes_but_pools_are_key_axes(dataset: Dataset) -> None:
    definition = Definition.model_validate(dataset.definition())
    assert family_axes(definition) == key_axes(definition) == KeyAxes(("m",))  # x [n, d] is only chosen from
    assert "num_pages" not in key_axes(DECODE).names
    grouped = GEMM.model_copy(update={"axes": {**GEMM.axes, "K": GEMM.axes["M"]}})
    assert key_axes(grouped) == KeyAxes(("M", "K"))


def test_work_is_the_bytes_that_move_and_the_multiplications_of_a_product() -> None:
    moved = 2 * (3 * 32 + 64 * 32 + 3 * 64)
    assert work(GEMM)({"M": 3}) == pytest.approx(moved + 2 * 3 * 64 * 32 / 200)


def test_of_a_pool_only_what_indices_name_counts_as_work() -> None:
    axes = {"batch_size": 2, "len_indptr": 3, "num_kv_indices": 10, "num_pages": 1_000_000}
    assert work(DECODE)(axes) == work(DECODE)({**axes, "num_pages": 500})
    assert work(DECODE)({**axes, "num_kv_indices": 20}) > work(DECODE)(axes)


def test_the_nearest_measured_size_tells_the_time() -> None:
    found = times(measured(GEMM.name, {"M": 1}, 1.0), measured(GEMM.name, {"M": 64}, 5.0))
    assert found.source(GEMM.name) == MEASURED
    assert [found.of(GEMM.name, {"M": size}) for size in (1, 5, 13, 64, 999)] == [1.0, 1.0, 5.0, 5.0, 5.0]


def test_several_measurements_of_a_size_give_their_median() -> None:
    assert times(*(measured(GEMM.name, {"M": 1}, ms) for ms in (1.0, 2.0, 99.0))).of(GEMM.name, {"M": 1}) == 2.0


def test_the_hardware_with_the_most_measurements_speaks() -> None:
    others = [measured(GEMM.name, {"M": 1}, 7.0, "cpu"), measured(GEMM.name, {"M": 1}, None)]
    found = times(*others, *(measured(GEMM.name, {"M": size}, 2.0) for size in (1, 2)))
    assert found.of(GEMM.name, {"M": 1}) == 2.0


def test_without_measurements_work_is_the_time() -> None:
    assert times().source(GEMM.name) == ESTIMATED
    assert times().of(GEMM.name, {"M": 3}) == work(GEMM)({"M": 3})


def test_estimates_beside_measurements_are_in_their_scale() -> None:
    axes = {"batch_size": 2, "len_indptr": 3, "num_kv_indices": 10, "num_pages": 50}
    found = times(measured(GEMM.name, {"M": 3}, 4.0))
    assert found.source(DECODE.name) == ESTIMATED
    assert found.of(DECODE.name, axes) == pytest.approx(work(DECODE)(axes) * 4.0 / work(GEMM)({"M": 3}))


def test_measurements_of_definitions_that_are_not_there_say_nothing() -> None:
    assert times(measured(NAME, {"n": 1}, 1.0)).source(GEMM.name) == ESTIMATED
