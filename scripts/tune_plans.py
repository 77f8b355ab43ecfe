"""The plans that gemm_decode_cuda may take, each as a solution of its own, and the table of the best ones as a header.

gpu_tune.py times the plans on a GPU; the tests check them. A plan is written as the C++ that names it, such as
``ring<1, 1, 8, 1024, 1>``: what its numbers mean is in solutions/gemm/gemm_decode_cuda/{ring,stream}.h.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fib_plugin import ops
from fib_plugin.pack import find_sources
from fib_plugin.schema import Definition, Solution

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "solutions" / "gemm" / "gemm_decode_cuda"
REPORT = ROOT / "tests" / "reports" / "decode_gemm_tune.json"

#: Rows of A that a plan takes in one pass -> plans. More rows than that read the weight once more for as many.
PLANS: dict[int, tuple[str, ...]] = {
    8: (
        "ring<1, 1, 8, 1024, 1>",
        "ring<1, 1, 8, 512, 1>",
        "ring<1, 1, 4, 512, 1>",
        "ring<2, 1, 8, 512, 1>",
        "ring<1, 1, 8, 1024, 2>",
        "ring<1, 1, 8, 512, 2>",
        "ring<2, 1, 8, 512, 2>",
        "ring<1, 1, 8, 512, 4>",
        "stream<2, 1, 4, 4, true, 162>",
        "stream<3, 1, 4, 2, true, 162>",
        "stream<2, 1, 8, 2, true, 162>",
        "stream<1, 1, 8, 4, true, 162>",
        "stream<4, 1, 4, 2, true, 162>",
        "stream<2, 1, 4, 4, false, 226>",
        "stream<2, 1, 8, 2, false, 226>",
        "stream<3, 1, 4, 2, false, 226>",
    ),
    16: (
        "ring<1, 2, 8, 512, 1>",
        "ring<1, 2, 8, 256, 1>",
        "ring<1, 2, 4, 512, 1>",
        "ring<1, 2, 4, 256, 1>",
        "ring<2, 2, 4, 256, 1>",
        "ring<2, 2, 8, 256, 1>",
        "ring<1, 2, 8, 1024, 2>",
        "ring<1, 2, 8, 512, 2>",
        "ring<1, 2, 4, 512, 2>",
        "ring<1, 2, 8, 256, 2>",
        "ring<2, 2, 8, 512, 2>",
        "ring<1, 2, 8, 512, 4>",
        "ring<2, 2, 8, 256, 4>",
        "stream<2, 2, 4, 2, true, 98>",
        "stream<2, 2, 4, 4, false, 226>",
        "stream<2, 2, 8, 2, false, 226>",
        "stream<3, 2, 4, 4, false, 226>",
        "stream<4, 2, 4, 2, false, 226>",
    ),
    24: (
        "ring<1, 3, 8, 512, 2>",
        "ring<1, 3, 8, 512, 4>",
        "ring<2, 3, 8, 256, 4>",
        "stream<2, 3, 8, 2, false, 226>",
        "stream<3, 3, 4, 2, false, 226>",
        "stream<4, 3, 4, 2, false, 226>",
    ),
    32: (
        "ring<1, 4, 8, 512, 2>",
        "ring<1, 4, 4, 256, 2>",
        "ring<1, 4, 8, 256, 2>",
        "ring<1, 4, 8, 512, 4>",
        "ring<2, 4, 8, 256, 4>",
        "ring<1, 4, 8, 512, 8>",
        "ring<2, 4, 8, 256, 8>",
        "stream<2, 4, 8, 2, false, 226>",
        "stream<3, 4, 4, 2, false, 226>",
        "stream<4, 4, 4, 2, false, 226>",
        "stream<7, 4, 4, 1, false, 226>",
    ),
    64: (
        "ring<1, 8, 4, 256, 8>",
        "ring<2, 8, 4, 128, 8>",
    ),
}


def plans_for(m: int) -> tuple[str, ...]:
    """What is worth a try for ``m`` rows of A: the plans that take them in one pass, past 32 also those in two."""
    least = next((rows for rows in PLANS if m <= rows), max(PLANS))
    return PLANS[least] + (PLANS[32] if least == 64 else ())


def solution_of(plan: str) -> tuple[Solution, Definition]:
    """gemm_decode_cuda with this one plan: a product that the plan cannot take is an error, not another plan's."""
    (source,) = find_sources([SOURCE])
    definition = ops.ALL["gemm"].definition(n=4096, k=4096)
    solution = source.solution_for(definition, "gemm")
    kind = plan.split("<")[0]
    others = {
        "choose.h": _ONE_PLAN.replace("KIND", kind).replace("PLAN", plan),
        "any.h": _NO_OTHER.replace("KIND", kind),
        "tuned.h": "#pragma once\n",
    }
    name = "".join(c if c.isalnum() else "_" for c in plan)
    sources = [file.model_copy(update={"content": others.get(file.path, file.content)}) for file in solution.sources]
    return solution.model_copy(update={"name": f"gemm_plan_{name}", "sources": sources}), definition


_ONE_PLAN = """#pragma once
#include "KIND.h"
namespace fib {
inline int measured_like(int) { return 0; }
inline Launch by_table(const Product&, int) { return PLAN; }
inline Launch by_rule(const Product&, int) { return nullptr; }
}  // namespace fib
"""
_NO_OTHER = """#pragma once
#include "KIND.h"
namespace fib {
inline cudaError_t any(const Product&, bool, cudaStream_t) { return cudaErrorNotSupported; }
}  // namespace fib
"""


def settle(times: Mapping[str, Mapping[str, float]], slack: float = 0.01) -> dict[str, str]:
    """Case -> plan, from case -> plan -> microseconds: the fastest, or among those within ``slack`` the commonest.

    Each plan that the table names is more to compile, and a percent is within the noise of a measurement.
    """
    near = {
        case: [plan for plan, us in found.items() if us <= min(found.values()) * (1 + slack)]
        for case, found in times.items()
        if found
    }
    chosen: dict[str, str] = {}
    while len(chosen) < len(near):
        counts = Counter(plan for case, plans in near.items() if case not in chosen for plan in plans)
        # By name where counts are equal: the same measurements make the same table.
        common = min(counts, key=lambda plan: (-counts[plan], plan))
        chosen |= {case: common for case, plans in near.items() if case not in chosen and common in plans}
    return chosen


def header(report: Mapping[str, Any]) -> str:
    """tuned.h, from the content of decode_gemm_tune.json."""
    devices = report.get("devices", {})
    measured = [
        f'    {{"{name}", {one["major"]}, {one["minor"]}, {one["gigabytes_per_second"]}}},'
        for name, one in devices.items()
    ]
    tuned = [
        f"    {{{number}, {row['N']}, {row['K']}, {row['most_M']}, {row['plan']}}},"
        for number, one in enumerate(devices.values())
        for row in _merged(one["table"])
    ]
    return _HEADER.format(
        count=len(devices),
        measured="\n".join(measured or ["    {nullptr, 0, 0, 0},"]),
        tuned="\n".join(tuned or ["    {-1, 0, 0, 0, nullptr},"]),
    )


def _merged(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By shape and rows; a row whose successor of the same shape has the same plan says nothing."""
    rows = sorted(table, key=lambda row: (row["N"], row["K"], row["most_M"]))
    return [
        row
        for row, after in zip(rows, [*rows[1:], *([{}] if rows else [])], strict=True)
        if [row[key] for key in ("N", "K", "plan")] != [after.get(key) for key in ("N", "K", "plan")]
    ]


_HEADER = """// The best measured plans by device and shape. Do not edit: scripts/gpu_tune.py writes it, from
// what it measured and keeps in tests/reports/decode_gemm_tune.json. Run it on a device to add that device.
#pragma once

#include "ring.h"
#include "stream.h"

namespace fib {{

struct Measured {{
  const char* name;
  int major, minor, gigabytes_per_second;  // of its memory, by clock and width
}};
struct Tuned {{
  int device;  // in MEASURED
  int n, k, most_m;
  Launch plan;
}};

constexpr int MEASURED_DEVICES = {count};
inline const Measured MEASURED[] = {{
{measured}
}};
inline const Tuned TUNED[] = {{
{tuned}
}};

}}  // namespace fib
"""
