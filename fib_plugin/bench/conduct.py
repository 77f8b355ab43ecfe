"""Conduct: fouls that no value and no time shows. The examiner calls the checks; each raises `Caught`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fib_plugin import judge
from fib_plugin.bench import wire
from fib_plugin.bench.case import Case, Trial
from fib_plugin.bench.child import Place
from fib_plugin.bench.form import check_form
from fib_plugin.bench.fouls import Caught
from fib_plugin.bench.roofline import floor_ms
from fib_plugin.bench.seat import Refused, Seat
from fib_plugin.schema import Language, Solution

_KERNELS = (Language.TRITON, Language.CUDA, Language.CPP)

#: Ops of torch that compute what a definition asks for. A kernel may allocate, copy, view and reduce a scalar; whoever
#: says that he brings a kernel and calls one of these brings none.
_LIBRARY = frozenset(
    (
        *("mm", "bmm", "addmm", "baddbmm", "mv", "matmul", "linear", "dot", "einsum", "_scaled_mm", "_grouped_mm"),
        *("silu", "silu_", "gelu", "sigmoid", "softmax", "_softmax", "_log_softmax", "logsumexp"),
        *("rms_norm", "_fused_rms_norm", "native_layer_norm", "layer_norm"),
        *("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu"),
        *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
        *("_scaled_dot_product_cudnn_attention", "_flash_attention_forward", "_efficient_attention_forward"),
        *("multinomial",),
    )
)


def check_replaced(seat: Seat, key: str) -> None:
    """Functions of torch, the interpreter and the benchmark are what they were before the solution was read.

    Nor are there threads that it left: they could work on answers when nobody looks at the clock.
    """
    found = seat.ask(wire.Inspect(key), wire.Inspected)
    if found.patched:
        raise Caught("patched", f"it replaced {', '.join(found.patched)} in its process")
    if found.threads:
        raise Caught(
            "leftover_threads", f"it leaves {found.threads} Python threads running (end them before you return)"
        )


def check_helpers(seat: Seat) -> None:
    """No process is left running between calls: it could work on answers, or against others, when nobody looks."""
    if seat.child.helpers:
        raise Caught("leftover_threads", f"it leaves {seat.child.helpers} processes running after a call")


def check_conduct(case: Case, seat: Seat, key: str, solution: Solution, first: Sequence[Any]) -> bool | None:
    """It does the same twice, and a solution that says it brings a kernel computes with that kernel.

    Returns whether the answer to the inputs of ``first``, which it returned before, is the same bit by bit. Sums in no
    fixed order differ in the last bits, which is honest; by more than the tolerance it is no answer. None for samplers,
    whose answers are to differ: no definition gives them a seed.
    """
    trial = case.trials[0]
    language = solution.spec.language
    watched = language in _KERNELS
    trial.arm()
    ran = seat.ask(wire.Run(key, trial.name, trial.layout, "calls" if watched else ""), wire.Ran)
    outputs = _outputs(case, trial, ran, seat)
    if (
        case.config.evaluator == "elementwise"
        and not judge.outputs(case.definition, outputs, trial.expected[: len(outputs)], case.config.tolerance).passed
    ):
        raise Caught("nondeterministic", "the same inputs gave a wrong answer when they came again")
    same = None
    if case.config.evaluator == "elementwise":
        same = judge.identical(outputs, first)
        again = judge.outputs(case.definition, outputs, first, case.config.tolerance)
        if not again.passed:
            raise Caught("nondeterministic", f"two answers to the same inputs differ by more than allowed: {again.log}")
    if watched:
        _check_kernel(case, seat, key, language, ran)
    return same


def _check_kernel(case: Case, seat: Seat, key: str, language: Language, ran: wire.Ran) -> None:
    library = sorted(set(ran.library) & _LIBRARY)
    if library:
        raise Caught("library_call", f"it says {language.value} and calls {', '.join(library)} of torch")
    if ran.python:
        raise Caught("library_call", f"it says {language.value} and has Python run {', '.join(ran.python)}")
    if language is not Language.TRITON:
        return  # what is called is itself the kernel: nothing else of it could compute
    if not ran.launches:
        raise Caught("no_kernel", "it says triton, and none of its kernels was launched")
    if case.config.evaluator == "elementwise" and _right_without_kernels(case, seat, key):
        raise Caught("no_kernel", "its answer is right without its kernels: they compute nothing of it")


def _right_without_kernels(case: Case, seat: Seat, key: str) -> bool:
    # On other inputs: in a buffer that it keeps, or that an allocator hands out again, lies what its kernels wrote.
    trial = case.unseen()
    trial.arm()
    try:
        ghost = seat.ask(wire.Run(key, trial.name, trial.layout, "ghost"), wire.Ran)
        outputs = _outputs(case, trial, ghost, seat)
        return judge.outputs(case.definition, outputs, trial.expected, case.config.tolerance).passed
    except Refused:  # without its kernels it does not even run
        return False
    finally:
        case.trials[0].restore()


def check_floor(case: Case, place: Place, took_ms: float) -> None:
    """No call is faster than its bytes can move."""
    try:
        floor = floor_ms(
            case.definition,
            case.workload.axes,
            case.again.inputs,
            device=place.device,
            threads=place.threads,
            mutates=case.config.mutates,
            moving=case.timing.blob.size,
        )
    except ValueError:
        return  # no such floor is known for it
    if took_ms < floor:
        raise Caught("too_fast", f"{took_ms * 1e3:.3g} us; the bytes alone take {floor * 1e3:.3g} us on this machine")


def _outputs(case: Case, trial: Trial, ran: wire.Ran, seat: Seat) -> list[Any]:
    if case.config.mutates:
        trial.restore()
    verdict = check_form(case.definition, trial.layout, ran.outputs, seat.child.place.device)
    if verdict is not None:
        raise Caught("nondeterministic", f"another call returned something else: {verdict.log}")
    return trial.outputs()[: len(ran.outputs)]
