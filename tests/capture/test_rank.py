"""The rank in a shard's name is the engine's own, asked of the modules that it has imported, else the launcher's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from capture_cases import script

from fib_plugin.capture.rank import rank_name
from fib_plugin.dataset.layout import shard_of

VLLM = "vllm.distributed.parallel_state"
SGLANG = "sglang.srt.distributed.parallel_state"
ATTENTION = "sglang.srt.layers.dp_attention"

Engine = Callable[..., None]


class Group:
    def __init__(self, rank: int, size: int) -> None:
        self.rank_in_group = rank
        self.world_size = size


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Puts an engine's module in place: function -> what it returns; None for a group that is not initialised."""
    for variable in ("RANK", "LOCAL_RANK", "VLLM_DP_RANK", "VLLM_DP_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    for name in (VLLM, SGLANG, ATTENTION):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def make(name: str, **functions: Group | int | None) -> None:
        module = ModuleType(name)
        for function, answer in functions.items():

            def ask(answer: Group | int | None = answer) -> Group | int:
                assert answer is not None, "not initialized"
                return answer

            setattr(module, function, ask)
        monkeypatch.setitem(sys.modules, name, module)

    return make


def vllm(engine: Engine, tp: tuple[int, int] | None, **others: tuple[int, int] | None) -> None:
    given = {"tp": tp, "pp": (0, 1), "dp": (0, 1), "ep": None, **others}
    engine(VLLM, **{f"get_{label}_group": None if group is None else Group(*group) for label, group in given.items()})


def test_without_an_engine_it_is_the_launchers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_name() == "0"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert rank_name() == "2"
    monkeypatch.setenv("RANK", "11")
    assert rank_name() == "11"


def test_a_variable_that_is_no_number_is_passed_over(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "../../x")
    monkeypatch.setenv("LOCAL_RANK", "²")
    assert rank_name() == "0"


def test_an_engine_that_is_not_yet_initialised_is_passed_over(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm(engine, None, pp=None, dp=None)
    monkeypatch.setenv("RANK", "1")
    assert rank_name() == "1"


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        ({"tp": (0, 1)}, "tp0"),
        ({"tp": (1, 2)}, "tp1"),
        ({"tp": (1, 2), "dp": (0, 2)}, "tp1dp0"),
        ({"tp": (0, 2), "pp": (1, 2), "dp": (0, 2), "ep": (3, 4)}, "tp0pp1dp0ep3"),
        ({"tp": (0, 1), "ep": (0, 1)}, "tp0"),
    ],
)
def test_dimensions_with_more_than_one_member_are_named(
    engine: Engine, groups: dict[str, tuple[int, int]], name: str
) -> None:
    vllm(engine, **groups)
    assert rank_name() == name


def test_replicas_without_a_common_group_are_told_apart(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm(engine, (1, 2))
    monkeypatch.setenv("VLLM_DP_RANK", "3")
    monkeypatch.setenv("VLLM_DP_SIZE", "4")
    assert rank_name() == "tp1dp3"


def test_sglang_names_its_own_groups(engine: Engine) -> None:
    engine(SGLANG, get_tp_group=Group(3, 4), get_pp_group=Group(0, 1), get_moe_ep_group=Group(1, 2))
    assert rank_name() == "tp3ep1"
    engine(ATTENTION, get_attention_dp_rank=1, get_attention_dp_size=2)
    assert rank_name() == "tp3dp1ep1"


def test_a_version_with_other_functions_costs_only_the_rank(engine: Engine) -> None:
    engine(VLLM)
    assert rank_name() == "0"
    engine(VLLM, get_tp_group=7)
    assert rank_name() == "0"


def test_asking_imports_no_engine() -> None:
    source = """
import sys
from fib_plugin.capture.rank import rank_name
rank_name()
sys.exit(any(name.split(".")[0] in ("vllm", "sglang", "torch") for name in sys.modules))
"""
    assert script(source).wait(60) == 0


@pytest.mark.parametrize("rank", ["0", "11", "tp0", "tp1dp0", "tp0pp1dp0ep3"])
@pytest.mark.parametrize("host", ["", "host-", "node-7_a-"])
def test_every_rank_is_found_again_in_a_shards_name(rank: str, host: str) -> None:
    shard = shard_of(Path(f"workloads/gemm/gemm_n8.k4.rank{rank}.{host}4711.jsonl"))
    assert shard is not None
    assert (shard.base.name, shard.rank, shard.pid) == ("gemm_n8.k4.jsonl", rank, 4711)
    assert shard.host == (host[:-1] or None)


VLLM_GROUPS = """
import tempfile
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import parallel_state
from fib_plugin.capture.rank import rank_name
assert rank_name() == "0"
with set_current_vllm_config(VllmConfig()):
    address = "file://" + tempfile.mktemp()
    parallel_state.init_distributed_environment(1, 0, address, 0, "gloo")
    parallel_state.initialize_model_parallel(1)
    print("rank", rank_name())
"""


@pytest.mark.engine
def test_vllms_own_groups_are_understood() -> None:
    pytest.importorskip("vllm")
    process = script(VLLM_GROUPS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=120)
    assert b"rank tp0\n" in out, out.decode()
