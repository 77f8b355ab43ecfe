"""Trace: a workload of a definition, and, once a solution was run on it, the evaluation of that run."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from fib_plugin.schema.errors import rule
from fib_plugin.schema.record import Name, Record
from fib_plugin.schema.workload import Workload

NotNegative = Annotated[float, Field(ge=0.0)]


class EvaluationStatus(str, Enum):
    """How a run ended."""

    PASSED = "PASSED"
    INCORRECT_SHAPE = "INCORRECT_SHAPE"
    INCORRECT_NUMERICAL = "INCORRECT_NUMERICAL"
    INCORRECT_DTYPE = "INCORRECT_DTYPE"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    COMPILE_ERROR = "COMPILE_ERROR"
    TIMEOUT = "TIMEOUT"

    __str__ = str.__str__


class Correctness(Record):
    """How far outputs were from the reference; infinities and NaN are strings in JSON."""

    max_relative_error: float = 0.0
    max_absolute_error: float = 0.0
    extra: dict[str, Any] | None = None

    @field_validator("max_relative_error", "max_absolute_error")
    @classmethod
    def _not_negative(cls, value: float) -> float:
        if value < 0:  # False for NaN, which is a legal outcome
            raise rule(f"an error is never negative, found {value}", remedy="store its absolute value")
        return value


class Performance(Record):
    """Times of the solution and of the definition's reference."""

    latency_ms: NotNegative = 0.0
    reference_latency_ms: NotNegative = 0.0
    speedup_factor: NotNegative = 0.0


class Environment(Record):
    """Where a run took place."""

    hardware: Name
    libs: dict[str, str] = Field(default_factory=dict)


class Evaluation(Record):
    """Outcome of one run. Only a passed one has times; only one with comparable outputs has errors."""

    status: EvaluationStatus
    environment: Environment
    timestamp: Name
    log: str = ""
    correctness: Correctness | None = None
    performance: Performance | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        passed = self.status is EvaluationStatus.PASSED
        compared = passed or self.status is EvaluationStatus.INCORRECT_NUMERICAL
        for field, wanted in (("correctness", compared), ("performance", passed)):
            if (getattr(self, field) is not None) != wanted:
                raise rule(
                    f"{field} is {'required' if wanted else 'not allowed'} when the status is {self.status.value}",
                    field=field,
                    remedy=f"{'add' if wanted else 'remove'} {field}, or correct the status",
                )
        return self


class Trace(Record):
    """A line of a dataset. Without solution and evaluation it is a workload."""

    definition: Name
    workload: Workload
    solution: str | None = None
    evaluation: Evaluation | None = None

    @property
    def is_workload(self) -> bool:
        return self.solution is None and self.evaluation is None

    @property
    def passed(self) -> bool:
        return self.evaluation is not None and self.evaluation.status is EvaluationStatus.PASSED
