"""sampling_cuda's code, thread by thread on a CPU (cuda_on_host): it draws from the distribution it is asked for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import solution_cases
import torch

from fib_plugin.pack import find_sources

HOST = Path(__file__).parent / "cuda_on_host"
DRAWS = 200

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("draws")
    (source,) = (source for source in find_sources() if source.name == "sampling_cuda")
    files = {name: text for name, text in source.files().items() if name.endswith(".h")}
    for name, text in (files | {file.name: file.read_text() for file in HOST.iterdir()}).items():
        (folder / name).write_text(text)
    command = ["g++", "-std=c++17", "-O1", "-w", f"-I{folder}", "-o", str(folder / "draws"), str(folder / "draws.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "draws"


def drawn(
    program: Path, blocks: int, probs: torch.Tensor, k: int | None, p: float | None, draws: int = DRAWS
) -> torch.Tensor:
    numbers = [blocks, draws, k or 0, 2.0 if p is None else p, *probs.tolist()]
    done = subprocess.run([str(program), *map(repr, numbers)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-300:]
    return torch.tensor([int(line) for line in done.stdout.splitlines()])


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize(
    ("k", "p"), [(5, 0.8), (7, None), (None, 0.6), (1, 0.5), (None, 0.0), (40, 0.9), (1000, 0.3), (None, 1.0)]
)
def test_draws_follow_the_filtered_distribution(program: Path, blocks: int, k: int | None, p: float | None) -> None:
    torch.manual_seed(0)
    probs = torch.softmax(torch.randn(131) * 2, 0)
    probs[17:40] = 0.0  # and a row of weights that are not all positive
    probs = probs / probs.sum()
    samples = drawn(program, blocks, probs, k, p)
    assert len(samples) == DRAWS
    assert solution_cases._distribution_problem(samples, solution_cases.target(probs, k, p)) is None


@pytest.mark.parametrize("blocks", [1, 3])
def test_ties_are_broken_by_index(program: Path, blocks: int) -> None:
    samples = drawn(program, blocks, torch.full((90,), 1 / 90), 5, 0.7, draws=60)
    assert samples.unique().tolist() == [0, 1, 2, 3]  # of five tenths of two the fourth still begins below seven


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_row_without_mass_ends(program: Path, blocks: int) -> None:
    assert drawn(program, blocks, torch.zeros(50), 5, 0.7, draws=3).unique().tolist() == [0]
