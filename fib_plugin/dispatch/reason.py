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
    NOT_TRUSTED = "not_trusted"
    CHANGED_SINCE_TRUSTED = "changed_since_trusted"
    BEYOND_TRUST = "beyond_trust"
    BUILDING = "building"
    BUILD_FAILED = "build_failed"
    PROBATION = "probation"
    WRONG_HERE = "wrong_here"
    SLOWER_HERE = "slower_here"
    NOT_CAPTURABLE = "not_capturable"
    HARMFUL = "harmful"
    SOLUTION_RAISED = "solution_raised"
    QUARANTINED = "quarantined"
    CAPTURING = "capturing"
    BAD_EVALUATION_CONFIG = "bad_evaluation_config"
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
    Reason.NOT_TRUSTED.value: "run `fib trust add` for solutions whose source you have read",
    Reason.CHANGED_SINCE_TRUSTED.value: "the source differs from what was trusted: run `fib trust verify`",
    Reason.BEYOND_TRUST.value: "fib.lock trusts the solution for smaller sizes only (`fib trust add --up-to`)",
    Reason.BUILDING.value: "the solution was being compiled; CUDA graphs made meanwhile keep the engine's op",
    Reason.BUILD_FAILED.value: "see the log line of the build; `fib bench` shows the compiler's output",
    Reason.PROBATION.value: "the engine's op answered while the solution was compared with it; nothing to do",
    Reason.WRONG_HERE.value: "the solution's result differed from the engine's on a live call; see the log",
    Reason.SLOWER_HERE.value: "the solution was not faster than the engine's op in this engine; nothing to do",
    Reason.NOT_CAPTURABLE.value: "a CUDA graph can hold the engine's op but not the solution: rid it of syncs",
    Reason.HARMFUL.value: "the solution changed what is not its own (an input, the random state); see the log",
    Reason.SOLUTION_RAISED.value: "the solution failed in the engine and is out until `fib trust add` clears it",
    Reason.QUARANTINED.value: "the solution failed on this host earlier and is out until `fib trust add` clears it",
    Reason.CAPTURING.value: "a CUDA graph was captured before an eager call of this size; nothing to do",
    Reason.BAD_EVALUATION_CONFIG.value: "mend the dataset's fib/evaluation file: `fib dataset validate` names it",
    Reason.INTERNAL_ERROR.value: "a defect of fib-plugin: please report the traceback in the log",
}
