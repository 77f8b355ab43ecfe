"""Why a call ran the engine's own op. Counted per adapter, shown by ``fib status`` with the remedy."""

from __future__ import annotations

from enum import Enum


class Reason(str, Enum):
    """Reasons for a fallback; the value is what counters and status files show."""

    APPLY_OFF = "apply_off"
    NO_DEFINITION = "no_definition"
    NO_SOLUTION = "no_solution"
    NOT_MEASURED_HERE = "not_measured_here"
    NOT_FASTER = "not_faster"
    UNMEASURED_SHAPE = "unmeasured_shape"
    CHANGED_SINCE_MEASURED = "changed_since_measured"
    UNSUPPORTED_ARGUMENT = "unsupported_argument"
    BUILD_FAILED = "build_failed"
    SOLUTION_RAISED = "solution_raised"
    QUARANTINED = "quarantined"
    CAPTURING = "capturing"
    INTERNAL_ERROR = "internal_error"


#: What the operator can do about each reason.
REMEDIES: dict[str, str] = {
    Reason.APPLY_OFF.value: "set FIB_ENABLE_APPLY=1 to substitute; tracing alone only records",
    Reason.NO_DEFINITION.value: "serve once with FIB_ENABLE_TRACING=1: the definition is harvested from the live call",
    Reason.NO_SOLUTION.value: "write a solution for the definition, or run `fib pack` to take the shipped ones",
    Reason.NOT_MEASURED_HERE.value: "run `fib bench` on this machine with these library versions",
    Reason.NOT_FASTER.value: "no solution beats the op it would displace by the margin: write a faster one",
    Reason.UNMEASURED_SHAPE.value: "capture and bench workloads of this size",
    Reason.CHANGED_SINCE_MEASURED.value: "the source differs from what was measured: run `fib bench` again",
    Reason.UNSUPPORTED_ARGUMENT.value: "the definition cannot express an argument of this call; nothing to do",
    Reason.BUILD_FAILED.value: "see the log line of the build; `fib bench` shows the compiler's output",
    Reason.SOLUTION_RAISED.value: "the solution failed in the engine and is out for this process; see the log",
    Reason.QUARANTINED.value: "the solution failed earlier in this process and is out",
    Reason.CAPTURING.value: "a CUDA graph was captured before an eager call of this size; nothing to do",
    Reason.INTERNAL_ERROR.value: "a defect of fib-plugin: please report the traceback in the log",
}
