"""The plans of gemm_decode_cuda and the table that chooses among them.

On any host their code runs thread by thread (cuda_on_host), which shows indices, barriers and bounds to be right, not
speed; nvcc takes them where it is installed; on a GPU each is right at the shapes that it is tuned for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import tune_plans

from fib_plugin.build import build
from fib_plugin.pack import find_sources

HOST = Path(__file__).parent / "cuda_on_host"
EVERY = sorted({plan for plans in tune_plans.PLANS.values() for plan in plans})
#: M, N, K: tails in every direction, a queue that wraps, a block of a cluster with less of K than the others.
SMALL = [(1, 40, 2080), (7, 70, 544), (13, 33, 3104), (70, 40, 288)]
#: Plans so small that one warp runs far ahead of another, as none does that is made for speed.
TIGHT = ["ring<1, 1, 2, 64, 1>", "ring<1, 1, 2, 128, 1>", "ring<2, 2, 4, 128, 2>", "ring<1, 4, 2, 64, 4>"]
#: N, K of Llama-3.1-8B's linear layers.
SHAPES = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def lay_out(folder: Path, plans: list[str], report: dict[str, Any]) -> None:
    """The kernels' headers, those of the hardware replaced by the host's."""
    (source,) = find_sources([tune_plans.SOURCE])
    files = {name: text for name, text in source.files().items() if name.endswith(".h")}
    files |= {file.name: file.read_text() for file in HOST.iterdir()}
    files |= {"plans.inc": "".join(f"NAMED({plan}),\n" for plan in plans), "tuned.h": tune_plans.header(report)}
    for name, text in files.items():
        (folder / name).write_text(text)


def compiled(folder: Path, name: str) -> Path:
    command = ["g++", "-std=c++17", "-O1", "-w", f"-I{folder}", "-o", str(folder / name), str(folder / f"{name}.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / name


@pytest.fixture(scope="module")
def on_host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plans")
    lay_out(folder, EVERY + TIGHT, {})
    return compiled(folder, "plans")


def said(program: Path, *arguments: object) -> str:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout.strip()


@needs_compiler
@pytest.mark.parametrize("plan", EVERY)
def test_every_plan_is_right_thread_by_thread(plan: str, on_host: Path) -> None:
    assert {(m, n, k): said(on_host, plan, m, n, k, 2) for m, n, k in SMALL} == dict.fromkeys(SMALL, "right")


@needs_compiler
@pytest.mark.parametrize("plan", TIGHT)
def test_no_warp_overtakes_another(plan: str, on_host: Path) -> None:
    shapes = [(5, 50, 2592), (3, 150, 64), (13, 70, 1056), (31, 40, 416)]
    assert {(m, n, k): said(on_host, plan, m, n, k, 1) for m, n, k in shapes} == dict.fromkeys(shapes, "right")


@needs_compiler
@pytest.mark.parametrize(
    ("line", "without", "symptom"),
    [
        ("if (round > 0) await(empty + stage, (round - 1) & 1);", "", "more arrivals than a barrier expects"),
        ("await_previous();\n      let_next_start();", "", "read before the kernels before were awaited"),
        ("half ^= 1;", "", "wrong"),
        ("meet_cluster();  // nobody", "// nobody", "wrong"),
    ],
)
def test_the_host_sees_a_barrier_that_is_missing(line: str, without: str, symptom: str, tmp_path: Path) -> None:
    lay_out(tmp_path, TIGHT, {})
    text = (tmp_path / "ring.h").read_text()
    assert line in text
    (tmp_path / "ring.h").write_text(text.replace(line, without, 1))
    program = compiled(tmp_path, "plans")
    shapes = [(5, 50, 2592), (3, 150, 64), (13, 70, 1056)]
    assert symptom in {said(program, plan, *shape, 1) for plan in TIGHT for shape in shapes}


H200 = ("NVIDIA H200", 9, 0, 3201000, 6144)
REPORT = {
    "devices": {
        "NVIDIA H100 80GB HBM3": {
            "major": 9,
            "minor": 0,
            "gigabytes_per_second": 3352,
            "table": [{"N": 6144, "K": 4096, "most_M": 8, "plan": "stream<3, 1, 4, 2, true, 162>"}],
        },
        "NVIDIA H200": {
            "major": 9,
            "minor": 0,
            "gigabytes_per_second": 4916,
            "table": [
                {"N": 6144, "K": 4096, "most_M": 16, "plan": "ring<1, 2, 8, 512, 1>"},
                {"N": 6144, "K": 4096, "most_M": 1, "plan": "ring<1, 1, 8, 512, 1>"},
                {"N": 6144, "K": 4096, "most_M": 8, "plan": "ring<1, 1, 8, 512, 1>"},
                {"N": 4096, "K": 4096, "most_M": 1, "plan": "ring<1, 1, 8, 1024, 1>"},
            ],
        },
    }
}


@needs_compiler
def test_a_product_takes_what_was_measured_on_its_device_or_one_like_it(tmp_path: Path) -> None:
    lay_out(tmp_path, sorted({row["plan"] for one in REPORT["devices"].values() for row in one["table"]}), REPORT)
    program = compiled(tmp_path, "choice")
    h100 = "stream<3, 1, 4, 2, true, 162>"
    assert said(program, *H200, 1, 6144, 4096) == "ring<1, 1, 8, 512, 1>"
    assert said(program, *H200, 8, 6144, 4096) == "ring<1, 1, 8, 512, 1>"
    assert said(program, *H200, 9, 6144, 4096) == "ring<1, 2, 8, 512, 1>"
    assert said(program, *H200, 17, 6144, 4096) == "by rule"
    assert said(program, *H200, 2, 4096, 4096) == "by rule"
    assert said(program, *H200, 1, 4096, 14336) == "by rule"
    assert said(program, "NVIDIA H100 80GB HBM3", *H200[1:], 1, 6144, 4096) == h100  # the name decides
    assert said(program, "NVIDIA H200 NVL", *H200[1:], 1, 6144, 4096) == "ring<1, 1, 8, 512, 1>"
    assert said(program, "NVIDIA H100", 9, 0, 2619000, 5120, 1, 6144, 4096) == h100
    assert said(program, "NVIDIA H100 PCIe", 9, 0, 1593000, 5120, 1, 6144, 4096) == "by rule"  # 2.0 TB/s: like neither
    assert said(program, "NVIDIA B200", 10, 0, 3201000, 6144, 1, 6144, 4096) == "by rule"


def test_the_header_is_what_was_measured() -> None:
    report = json.loads(tune_plans.REPORT.read_text()) if tune_plans.REPORT.exists() else {}
    assert (tune_plans.SOURCE / "tuned.h").read_text() == tune_plans.header(report)


def test_a_row_that_its_successor_repeats_is_left_out() -> None:
    header = tune_plans.header(REPORT)
    assert "{1, 6144, 4096, 8, ring<1, 1, 8, 512, 1>}" in header
    assert "{1, 6144, 4096, 1, " not in header


def test_among_plans_that_are_as_fast_the_commonest_is_taken() -> None:
    times = {"a": {"x": 10.0, "y": 10.05}, "b": {"y": 9.0, "x": 12.0}, "c": {"x": 8.0, "z": 7.0}}
    assert tune_plans.settle(times) == {"a": "y", "b": "y", "c": "z"}


def test_more_rows_than_a_plan_takes_at_once_are_tried_with_larger_plans() -> None:
    assert tune_plans.plans_for(1) == tune_plans.plans_for(8) == tune_plans.PLANS[8]
    assert tune_plans.plans_for(9) == tune_plans.PLANS[16]
    assert set(tune_plans.plans_for(64)) == {*tune_plans.PLANS[64], *tune_plans.PLANS[32]}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_every_plan_compiles_for_hopper_without_spills(tmp_path: Path) -> None:
    (source,) = find_sources([tune_plans.SOURCE])
    for name, text in source.files().items():
        (tmp_path / name).write_text(text)
    plans = ",\n".join(EVERY)
    (tmp_path / "every.cu").write_text(
        f'#include "choose.h"\nnamespace fib {{\nextern const Launch every[] = {{{plans}}};\n}}\n'
    )
    command = ["nvcc", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-Xptxas=-v", f"-I{tmp_path}", "-c"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "every.o"), str(tmp_path / "every.cu")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stderr.splitlines() if "spill stores" in line]
    assert len(said) >= len(EVERY)
    assert [line for line in said if " 0 bytes spill stores" not in line] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("plan", EVERY)
def test_every_plan_is_right_on_a_gpu_at_the_shapes_it_is_tuned_for(plan: str, cache: Path) -> None:
    if plan.startswith("ring") and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs compute capability 9.0")
    product = build(*tune_plans.solution_of(plan), cache).into
    rows = [m for m in (1, 2, 4, 8, 16, 24, 32, 64) if plan in tune_plans.plans_for(m)]
    taken = 0
    for n, k in SHAPES:
        weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * k**-0.5
        for m in sorted({*rows, max(rows) - 1, max(rows) // 2 + 1}):
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            got, again = (torch.full((m, n), float("nan"), device="cuda", dtype=torch.bfloat16) for _ in range(2))
            try:
                product(x, weight, got)
            except RuntimeError as error:
                if "could not be launched" not in str(error):
                    raise
                continue  # too little shared memory for so much of A
            product(x, weight, again)
            want = x.float() @ weight.float().T
            assert (got.float() - want).norm() / want.norm() < 3e-3, (m, n, k)
            assert torch.equal(got, again), (m, n, k)
            taken += 1
    assert taken
