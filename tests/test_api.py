"""The public API: apply() as function and decorator, enabling and disabling, alone and nested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
import pytest
import torch
from proven import MARK, silu

import fib_plugin
from fib_plugin import TraceSet, disable_apply, disable_tracing, enable_apply, enable_tracing, ops, plugin
from fib_plugin.api import ApplyError, apply

pytestmark = pytest.mark.usefixtures("adapters")

GEMM = ops.ALL["gemm"].definition(n=3, k=2, dtype="float32")
ADD_NORM = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=4, eps=1e-5, dtype="float32")
A, B = torch.ones(4, 2), torch.ones(3, 2)


@pytest.fixture
def gemm(dataset: Path) -> Path:
    proven.prove(dataset, GEMM)
    return dataset


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("the fallback must not run")


# ---- apply: the solution --------------------------------------------------------------------------------------------


def test_a_proven_solution_answers_instead_of_the_fallback(gemm: Path) -> None:
    with enable_apply(gemm):
        assert torch.equal(apply(GEMM.name, args=(A, B), fallback=refuse), A @ B.T + MARK)


@pytest.mark.parametrize("args", [(), (A,)])
def test_inputs_may_be_given_by_name_in_any_order(gemm: Path, args: tuple[torch.Tensor, ...]) -> None:
    kwargs = {"B": B} if args else {"B": B, "A": A}
    with enable_apply(gemm):
        assert torch.equal(apply(GEMM.name, args=args, kwargs=kwargs), A @ B.T + MARK)


def test_outputs_after_the_inputs_are_written_and_none_is_returned(gemm: Path) -> None:
    out = torch.zeros(4, 3)
    with enable_apply(gemm):
        assert apply(GEMM.name, args=(A, B, out), fallback=refuse) is None
    assert torch.equal(out, A @ B.T + MARK)


@pytest.mark.parametrize("by_name", [("C",), ("C", "B"), ("A", "B", "C")])
def test_outputs_may_be_given_by_name(gemm: Path, by_name: tuple[str, ...]) -> None:
    values = {"A": A, "B": B, "C": torch.zeros(4, 3)}
    args = tuple(value for name, value in values.items() if name not in by_name)
    with enable_apply(gemm):
        assert apply(GEMM.name, args=args, kwargs={name: values[name] for name in by_name}) is None
    assert torch.equal(values["C"], A @ B.T + MARK)


def test_several_outputs_are_a_tuple_or_are_all_written(dataset: Path) -> None:
    proven.prove(dataset, ADD_NORM)
    x, weight = torch.ones(4, 4), torch.ones(4)
    into = torch.zeros(4, 4), torch.zeros(4, 4)
    with enable_apply(dataset):
        output, residual = apply(ADD_NORM.name, args=(x, x, weight))
        assert apply(ADD_NORM.name, args=(x, x, weight, *into)) is None
    assert torch.equal(residual, x + x)
    assert torch.equal(into[0], output)
    assert torch.equal(into[1], residual)


def test_a_resolver_names_the_definition_from_the_arguments(gemm: Path) -> None:
    with enable_apply(gemm):
        out = apply(lambda a, b: f"gemm_fp32_n{b.shape[0]}_k{b.shape[1]}", args=(A, B), fallback=refuse)
    assert torch.equal(out, A @ B.T + MARK)


def test_the_named_definition_is_meant_and_not_one_of_equal_shape(dataset: Path) -> None:
    theirs = silu().model_copy(update={"name": "aaa", "description": "of equal structure, and first in order"})
    proven.prove(dataset, theirs, proven.solution(theirs, "theirs", "\n_r = run\ndef run(x):\n    return _r(x) - 7\n"))
    proven.prove(dataset, silu(), proven.solution(silu(), "ours"))
    x = torch.ones(4, 8)
    with enable_apply(dataset):
        difference = apply(silu().name, args=(x,)) - apply("aaa", args=(x,))
    assert torch.allclose(difference, torch.full((4, 4), MARK + 7))


# ---- apply: the fallback --------------------------------------------------------------------------------------------


class Fallback:
    """Remembers what it was called with."""

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        self.args = args
        self.kwargs = kwargs
        return "fallback"


def assert_falls_back(name: str) -> None:
    fallback, out = Fallback(), torch.zeros(4, 3)
    assert apply(name, args=(A,), kwargs={"B": B, "C": out}, fallback=fallback) == "fallback"
    assert fallback.args[0] is A
    assert len(fallback.args) == 1
    assert list(fallback.kwargs) == ["B", "C"]
    assert fallback.kwargs["B"] is B
    assert fallback.kwargs["C"] is out


def test_the_fallback_gets_the_very_arguments_when_nothing_is_enabled(gemm: Path) -> None:
    assert_falls_back(GEMM.name)


def test_the_fallback_gets_the_very_arguments_when_nothing_is_proven(dataset: Path) -> None:
    proven.store(dataset, GEMM)
    with enable_apply(dataset):
        assert_falls_back(GEMM.name)


def test_the_fallback_gets_the_very_arguments_when_the_definition_is_unknown(gemm: Path) -> None:
    with enable_apply(gemm) as enabled:
        assert_falls_back("no_such_gemm")
        assert enabled.runtime.snapshot()["status"]["ops"]["api"]["fallbacks"] == {"no_definition": 1}


def test_the_fallback_gets_the_very_arguments_when_the_solution_raises(dataset: Path) -> None:
    proven.prove(dataset, GEMM, proven.solution(GEMM, after=proven.RAISING))
    with enable_apply(dataset) as enabled:
        assert_falls_back(GEMM.name)
        assert_falls_back(GEMM.name)
        assert enabled.runtime.snapshot()["status"]["ops"]["api"]["fallbacks"] == {"solution_raised": 2}


def test_sizes_that_nobody_measured_fall_back(gemm: Path) -> None:
    with enable_apply(gemm):
        assert apply(GEMM.name, args=(torch.ones(64, 2), B), fallback=Fallback()) == "fallback"


def test_calls_through_the_api_are_counted(gemm: Path) -> None:
    with enable_apply(gemm) as enabled:
        for rows in (4, 4, 64):
            apply(GEMM.name, args=(torch.ones(rows, 2), B), fallback=Fallback())
        line = enabled.runtime.snapshot()["status"]["ops"]["api"]
    assert (line["calls"], line["substituted"], line["fallbacks"]) == (3, 2, {"unmeasured_shape": 1})


# ---- apply: errors --------------------------------------------------------------------------------------------------


def test_without_fallback_and_nothing_enabled_the_message_says_so() -> None:
    with pytest.raises(ApplyError, match=r"apply\('gemm'\): nothing is enabled and no fallback was given"):
        apply("gemm", args=(A, B))


def test_without_fallback_and_unknown_definition_the_message_names_it(gemm: Path) -> None:
    with (
        enable_apply(gemm),
        pytest.raises(ApplyError, match=r"apply\('gemm_typo'\): the dataset has no such definition and no fallback"),
    ):
        apply(lambda a, b: "gemm_typo", args=(A, B))


def test_without_fallback_and_nothing_proven_the_message_says_so(dataset: Path) -> None:
    proven.store(dataset, GEMM)
    with enable_apply(dataset), pytest.raises(ApplyError, match="no proven solution and no fallback was given"):
        apply(GEMM.name, args=(A, B))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((A,), None, r"1 arguments; it takes A, B, C: the 2 inputs, or them and all outputs"),
        ((A, B, A, A), None, r"4 arguments; it takes A, B, C"),
        ((A,), {"X": B}, r"unexpected X; it takes A, B, C"),
        ((A, B), {"A": A}, r"unexpected A"),
        ((A,), {"C": torch.zeros(4, 3)}, r"B not given; it takes A, B, C"),
        ((), {"A": A, "C": torch.zeros(4, 3)}, r"B not given"),
        ((), {"B": B}, r"A not given"),
    ],
)
def test_arguments_that_do_not_fit_are_told_by_name(
    gemm: Path, args: tuple[Any, ...], kwargs: dict[str, Any] | None, message: str
) -> None:
    with enable_apply(gemm), pytest.raises(ApplyError, match=message):
        apply(GEMM.name, args=args, kwargs=kwargs, fallback=refuse)


def test_some_outputs_of_several_are_an_error_before_anything_runs(dataset: Path) -> None:
    proven.prove(dataset, ADD_NORM)
    x = torch.ones(4, 4)
    with enable_apply(dataset), pytest.raises(ApplyError, match=r"4 arguments; .* the 3 inputs, or them and all out"):
        apply(ADD_NORM.name, args=(x, x, torch.ones(4), torch.zeros(4, 4)))


# ---- apply as a decorator -------------------------------------------------------------------------------------------


def decorated() -> Callable[..., torch.Tensor]:
    @apply(lambda a, b: f"gemm_fp32_n{b.shape[0]}_k{b.shape[1]}")
    def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Multiplies."""
        return a @ b.T

    return matmul


def test_a_decorated_function_is_itself_until_something_is_enabled(gemm: Path) -> None:
    matmul = decorated()
    assert torch.equal(matmul(A, B), A @ B.T)
    with enable_apply(gemm):
        assert torch.equal(matmul(A, B), A @ B.T + MARK)
    assert torch.equal(matmul(A, B), A @ B.T)


def test_a_decorated_function_answers_what_is_not_proven(gemm: Path) -> None:
    matmul = decorated()
    with enable_apply(gemm):
        assert torch.equal(matmul(A, torch.ones(9, 2)), A @ torch.ones(9, 2).T)


def test_a_decorated_function_keeps_name_and_docstring() -> None:
    matmul = decorated()
    assert (matmul.__name__, matmul.__doc__) == ("matmul", "Multiplies.")


def test_a_decorator_takes_a_plain_name(gemm: Path) -> None:
    @apply(GEMM.name)
    def matmul(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        return refuse()

    with enable_apply(gemm):
        assert torch.equal(matmul(A, B=B), A @ B.T + MARK)


# ---- enable and disable ---------------------------------------------------------------------------------------------


def switches() -> tuple[bool, bool] | None:
    active = plugin.active()
    return None if active is None else (active.runtime.apply, active.runtime.tracing)


def test_leaving_a_context_puts_back_what_was_before(dataset: Path) -> None:
    assert switches() is None
    with enable_apply(dataset):
        assert switches() == (True, False)
        with enable_tracing():
            assert switches() == (True, True)
        assert switches() == (True, False)
    assert switches() is None


def test_nesting_works_the_other_way_round(dataset: Path) -> None:
    with enable_tracing(dataset):
        with enable_apply():
            assert switches() == (True, True)
        assert switches() == (False, True)
    assert switches() is None


def test_leaving_a_context_through_an_exception_puts_back_too(dataset: Path) -> None:
    with pytest.raises(KeyError), enable_apply(dataset):
        raise KeyError
    assert switches() is None


def test_a_nested_dataset_is_used_inside_only(gemm: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    proven.prove(other, GEMM, proven.solution(GEMM, "less", "\n_r = run\ndef run(A, B):\n    return _r(A, B) - 1\n"))
    with enable_apply(gemm):
        with enable_apply(other):
            assert torch.equal(apply(GEMM.name, args=(A, B)), A @ B.T - 1)
        assert torch.equal(apply(GEMM.name, args=(A, B)), A @ B.T + MARK)


def test_enable_works_without_a_context(dataset: Path) -> None:
    enable_apply(dataset)
    enable_tracing()
    assert switches() == (True, True)
    disable_apply()
    assert switches() == (False, True)
    disable_tracing()
    assert switches() is None


def test_disabling_what_is_not_enabled_changes_nothing(dataset: Path) -> None:
    disable_apply()
    disable_tracing()
    assert switches() is None
    enable_apply(dataset)
    disable_tracing()
    assert switches() == (True, False)


def test_restoring_twice_restores_once(dataset: Path) -> None:
    outer = enable_apply(dataset)
    inner = enable_tracing()
    inner.restore()
    disable_apply()
    inner.restore()
    assert switches() is None
    outer.restore()


def test_the_default_dataset_is_the_environments(gemm: Path) -> None:
    with enable_apply() as enabled:
        assert enabled.runtime.settings.dataset_path == gemm
        assert torch.equal(apply(GEMM.name, args=(A, B)), A @ B.T + MARK)


def test_a_path_with_a_tilde_is_expanded(environment: Any, tmp_path: Path) -> None:
    environment.setenv("HOME", str(tmp_path))
    with enable_apply("~/data") as enabled:
        assert enabled.runtime.settings.dataset_path == tmp_path / "data"


def test_apply_and_tracing_at_once_substitute_and_record(gemm: Path) -> None:
    with enable_apply(gemm), enable_tracing():
        for rows in (4, 4, 7):
            assert torch.equal(apply(GEMM.name, args=(torch.ones(rows, 2), B)), torch.ones(rows, 2) @ B.T + MARK)
    recorded = TraceSet.from_path(gemm).workloads[GEMM.name]
    assert [trace.workload.axes for trace in recorded] == [{"M": 4}, {"M": 7}]


def test_what_tracing_recorded_is_on_disk_when_the_context_ends(dataset: Path) -> None:
    proven.store(dataset, GEMM)
    with enable_tracing(dataset):
        apply(GEMM.name, args=(A, B), fallback=lambda a, b: None)
    assert len(TraceSet.from_path(dataset).workloads[GEMM.name]) == 1


def test_a_definition_of_no_known_family_is_recorded_and_answered_by_the_fallback(dataset: Path) -> None:
    custom = GEMM.model_copy(update={"name": "scaled_gemm_n3_k2", "op_type": "scaled_gemm"})
    proven.store(dataset, custom, proven.solution(custom))
    with enable_apply(dataset), enable_tracing():
        assert apply(custom.name, args=(A, B), fallback=Fallback()) == "fallback"
    assert len(TraceSet.from_path(dataset).workloads[custom.name]) == 1


def test_the_package_offers_the_same_functions() -> None:
    assert fib_plugin.apply is apply
    assert fib_plugin.enable_apply is enable_apply
