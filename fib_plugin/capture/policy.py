"""Policy: which calls are written down and with which inputs, resolved once a definition. The recorder asks it."""

from __future__ import annotations

import logging
import threading
from typing import Any

from fib_plugin.capture.config import CaptureConfig
from fib_plugin.capture.policy_plan import Allowance, Plan
from fib_plugin.dataset.reservoirs import Held
from fib_plugin.schema import Definition

log = logging.getLogger("fib_plugin")


class Policy:
    """The plans of one process.

    >>> Policy(CaptureConfig()).plan(definition).tapped
    False
    """

    def __init__(self, config: CaptureConfig | None = None) -> None:
        self.config = config or CaptureConfig()
        self.running = True
        self.allowance = Allowance()
        self._plans: dict[str, Plan] = {}
        self._lock = threading.Lock()

    def plan(self, definition: Definition) -> Plan:
        """The definition's plan; made at the first call."""
        plan = self._plans.get(definition.name)
        if plan is None:
            with self._lock:
                plan = self._plans.get(definition.name)
                if plan is None:
                    plan = self._make(definition)
                    self._plans[definition.name] = plan
        return plan

    def _make(self, definition: Definition) -> Plan:
        rule = self.config.definitions.get(definition.name)
        if rule is not None and isinstance(rule.dump, tuple):
            unknown = [name for name in rule.dump if name not in definition.inputs]
            if unknown:
                log.warning(
                    "capture: definitions.%s.dump names %s, which it has no input of. Remedy: its inputs are %s.",
                    definition.name,
                    ", ".join(unknown),
                    ", ".join(definition.inputs),
                )
        limit = self.config.quota.workloads_per_definition
        return Plan(definition, self.config.terms(definition), limit, self.running, self.allowance)

    @property
    def taken(self) -> int:
        """Calls handed to the writer so far."""
        return sum(plan.taken for plan in list(self._plans.values()))

    def run(self, running: bool) -> None:
        """Starts or stops taking calls."""
        self.running = running
        for plan in list(self._plans.values()):
            plan.run(running)

    def samples(self) -> dict[str, Held]:
        """Per definition with a reservoir, what it holds."""
        found = ((name, plan.sample()) for name, plan in list(self._plans.items()))
        return {name: sample for name, sample in found if sample is not None}

    def status(self) -> dict[str, Any]:
        """For the status file: the plan of each definition, and rules that nothing came under."""
        plans = dict(self._plans)
        met = {plan.definition.op_type for plan in plans.values()}
        unused = [f"op_types.{name}" for name in self.config.op_types if name not in met]
        unused += [f"definitions.{name}" for name in self.config.definitions if name not in plans]
        return {
            "definitions": {name: plan.status() for name, plan in sorted(plans.items())},
            "unused_rules": unused,
            "quota": self.config.quota.model_dump(),
        }

    def forked(self) -> None:
        """In a forked child: its own locks and counts."""
        self._lock = threading.Lock()
        for plan in self._plans.values():
            plan.forked()
