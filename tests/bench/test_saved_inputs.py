"""Where all inputs of a workload are saved, whoever reads the dataset knows them: only the first trial has those."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bench_cases import NORM
from safetensors.torch import save_file

from fib_plugin import ops
from fib_plugin.bench.case import Case, prepare
from fib_plugin.bench.child import Place
from fib_plugin.bench.inputs import InputMaker
from fib_plugin.bench.nursery import Nursery
from fib_plugin.bench.referee import Referee
from fib_plugin.schema import SafetensorsInput, Workload


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    save_file({"hidden_states": torch.randn(4, 64), "weight": torch.randn(64)}, tmp_path / "saved.safetensors")
    saved = {name: SafetensorsInput(path="saved.safetensors", tensor_key=name) for name in NORM.inputs}
    workload = Workload(axes={"batch_size": 4}, inputs=saved, uuid="w")
    nursery = Nursery("cpu", 1)
    referee = Referee(Place("cpu", 1, tmp_path), nursery, NORM, 60.0)
    case = prepare(NORM, workload, InputMaker(tmp_path, 1), referee, ops.evaluation_config(NORM, tmp_path))
    yield case
    case.close()
    referee.close()
    nursery.close()


def test_later_trials_have_other_numbers_and_answers(case: Case, tmp_path: Path) -> None:
    first, *others = [*case.trials, case.again]
    assert len(others) == 2
    for one in others:
        assert not torch.equal(one.inputs[0], first.inputs[0])
        assert torch.equal(one.inputs[0].flatten().sort().values, first.inputs[0].flatten().sort().values)
        wanted = torch.nn.functional.rms_norm(one.inputs[0], (64,), one.inputs[1], 1e-5)
        torch.testing.assert_close(one.expected[0], wanted)


def test_unseen_contents_lie_in_the_first_trials_memory_until_it_is_restored(case: Case) -> None:
    first = case.trials[0]
    unseen = case.unseen()
    assert first.changed_inputs(NORM, []) == ["hidden_states", "weight"]
    wanted = torch.nn.functional.rms_norm(unseen.inputs[0], (64,), unseen.inputs[1], 1e-5)
    torch.testing.assert_close(unseen.expected[0], wanted)
    first.restore()
    assert first.changed_inputs(NORM, []) == []
