"""The two sides of a comparison: the same environment with the plugin off, and with it on; and what it did there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OFF, ON = "off", "on"
APPLY, TRACING = "FIB_ENABLE_APPLY", "FIB_ENABLE_TRACING"


def environments(
    base: Mapping[str, str],
    *,
    apply: bool | None = None,
    tracing: bool | None = None,
    dataset: Path | None = None,
) -> dict[str, dict[str, str]]:
    """The environment of each side. Off is FIB_DISABLE=1; on is what ``base`` and the options ask for.

    Args:
        apply, tracing: None leaves the switch as ``base`` has it. Where neither is on then, apply is switched on: there
            would be nothing to compare.
    """
    shared = dict(base)
    if dataset is not None:
        shared["FIB_DATASET_PATH"] = str(dataset)
    on = {key: value for key, value in shared.items() if key.upper() != "FIB_DISABLE"}
    for switch, wanted in ((APPLY, apply), (TRACING, tracing)):
        if wanted is not None:
            on[switch] = "1" if wanted else "0"
    if not any(on.get(switch, "0").lower() in ("1", "true", "yes", "on") for switch in (APPLY, TRACING)):
        on[APPLY] = "1"
    return {OFF: {**shared, "FIB_DISABLE": "1"}, ON: on}


@dataclass(frozen=True, slots=True)
class Done:
    """What the plugin did in the processes of the on side.

    Args:
        processes: that ran the plugin.
        calls: that its adapters saw.
        substituted: of these, those that a solution answered.
        written: workloads.
        fallbacks: calls that the engine's op answered, by reason.
    """

    processes: int
    calls: int
    substituted: int
    written: int
    fallbacks: dict[str, int]

    def doubt(self, environment: Mapping[str, str]) -> str | None:
        """Why the comparison may say nothing about the plugin, with the remedy; None where it does."""
        if not self.processes:
            return (
                "no process of the on side reported: the plugin did not run there (is fib-plugin installed in the "
                "Python of the command, and is FIB_CACHE_PATH the same for both?)"
            )
        if environment.get(APPLY, "0") != "0" and not self.substituted:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.fallbacks.items()) or "no call was seen"
            return f"no call was answered by a solution on the on side ({reasons}); `fib status` says what to do"
        return None


def done_since(began: float, cache: Path) -> Done:
    """What processes that started after ``began`` (seconds since 1970) reported under ``cache``."""
    from fib_plugin.board.serving import read_serving

    folder = cache / "status"
    statuses = [p.status for p in read_serving(folder, every=True).processes] if folder.is_dir() else []
    mine = [status for status in statuses if status.started >= began]
    ops = [op for status in mine for op in status.ops.values()]
    fallbacks: Counter[str] = Counter()
    for op in ops:
        fallbacks.update(op.fallbacks)
    return Done(
        processes=len(mine),
        calls=sum(op.calls for op in ops),
        substituted=sum(op.substituted for op in ops),
        written=sum(status.capture.written for status in mine),
        fallbacks=dict(fallbacks.most_common()),
    )
