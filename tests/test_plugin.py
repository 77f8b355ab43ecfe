"""register(): the engine always starts. Whatever is wrong, it says so in one clear line and touches nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import proven
import pytest
import torch
import toy_engine
from toy_engine import Plus, Raising, adapter

from fib_plugin import plugin
from fib_plugin.adapter import Adapter, Target
from fib_plugin.dataset import TraceSet

pytestmark = pytest.mark.usefixtures("adapters")


class Silu(Adapter):
    """What a real adapter does: harvest, attempt, else the original."""

    name = "toy.silu"
    engine = toy_engine.TOY
    families = ("silu_and_mul",)
    targets = (Target("toy.ops:silu_and_mul", "wrap", ">=1,<2", params=("x",)),)

    def wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
            if not self.live:
                return original(x)
            site = self.runtime.site(self.name, proven.silu(x.shape[-1] // 2))
            out = site.attempt(x.shape[0], (x,))
            return original(x) if out is None else out

        return silu_and_mul


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    yield from toy_engine.engine(tmp_path / "site", monkeypatch)


@pytest.fixture
def own(toy: Callable[[str], Any]) -> Callable[[], bool]:
    """Whether the engine's functions are the engine's own objects."""
    ops, model = toy("ops"), toy("model")
    before = (ops.plan, ops.silu_and_mul, model.plan, model.renamed, model.silu_and_mul)
    return lambda: all(
        now is then
        for now, then in zip(
            (ops.plan, ops.silu_and_mul, model.plan, model.renamed, model.silu_and_mul), before, strict=True
        )
    )


def x(rows: int = 4) -> torch.Tensor:
    return torch.ones(rows, 8)


def registered(environment: pytest.MonkeyPatch, **variables: str) -> plugin.Active | None:
    for name, value in variables.items():
        environment.setenv(name, value)
    plugin.register()
    return plugin.active()


# ---- off ------------------------------------------------------------------------------------------------------------


def test_nothing_enabled_leaves_the_engines_own_objects(environment: Any, adapters: Any, own: Any, log: Any) -> None:
    adapters((Plus, Silu))
    assert registered(environment) is None
    assert own()
    assert log.all == []


def test_the_kill_switch_patches_nothing_whatever_else_is_set(environment: Any, adapters: Any, own: Any) -> None:
    adapters((Plus, Silu))
    assert registered(environment, FIB_DISABLE="1", FIB_ENABLE_APPLY="1", FIB_ENABLE_TRACING="1") is None
    assert own()


def test_the_kill_switch_also_stops_enabling_from_code(
    environment: Any, adapters: Any, own: Any, dataset: Path, log: Any
) -> None:
    from fib_plugin import enable_apply, enable_tracing

    adapters((Plus, Silu))
    environment.setenv("FIB_DISABLE", "1")
    with enable_apply(), enable_tracing() as enabled:
        assert own()
        assert not enabled.runtime.apply
        assert not enabled.runtime.tracing
    assert not dataset.exists()
    assert "FIB_DISABLE" in log.warnings[0]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FIB_ENABLE_APPLY", "maybe"),
        ("FIB_DISABLE", "no way"),
        ("FIB_LOG_LEVEL", "LOUD"),
        ("FIB_DATASET_PATH", "~nobody-of-that-name/x"),
        ("FIB_APPLY_MARGIN", "-3"),
        ("FIB_ADAPTERS", "toy.plus,toy.typo"),
    ],
)
def test_a_bad_value_keeps_the_plugin_off_with_one_line(
    environment: Any, adapters: Any, own: Any, log: Any, variable: str, value: str
) -> None:
    adapters((Plus, Silu))
    switches = {"FIB_ENABLE_APPLY": "1", "FIB_ENABLE_TRACING": "1", variable: value}
    assert registered(environment, **switches) is None
    assert own()
    assert len(log.warnings) == 1
    assert variable in log.warnings[0]
    assert value.split(",")[-1] in log.warnings[0]
    assert "\n" not in log.warnings[0]


def test_an_unknown_adapter_is_told_with_the_ones_there_are(environment: Any, adapters: Any, log: Any) -> None:
    adapters((Plus, Silu))
    registered(environment, FIB_ENABLE_APPLY="1", FIB_ADAPTERS="toy.silly")
    assert log.warnings == [
        "fib-plugin is off: FIB_ADAPTERS names toy.silly, which no adapter answers to; known: toy.plus, toy.silu"
    ]


# ---- broken datasets ------------------------------------------------------------------------------------------------


def a_file(path: Path) -> None:
    path.write_text("not a folder")


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def broken_json(path: Path) -> None:
    proven.prove(path, proven.silu())
    (path / "definitions/activation/broken.json").write_text('{"name": ')


def no_run(path: Path) -> None:
    proven.prove(path, proven.silu())
    content = json.loads((path / "definitions/activation/silu_and_mul_fp32_d4.json").read_text())
    content.update(name="other", reference="def walk(x): ...")
    (path / "definitions/activation/other.json").write_text(json.dumps(content))


def binary(path: Path) -> None:
    proven.prove(path, proven.silu())
    (path / "solutions/noise.json").write_bytes(b"\x80\xff\x00" * 100)


def torn_measurement(path: Path) -> None:
    proven.prove(path, proven.silu())
    with next((path / "fib/measurements").rglob("*.jsonl")).open("a") as file:
        file.write('{"run": "torn\n')


def documents_is_a_file(path: Path) -> None:
    path.mkdir()
    (path / "definitions").write_text("")


@pytest.mark.parametrize("breakage", [a_file, broken_json, no_run, binary, torn_measurement])
def test_a_broken_dataset_is_told_in_one_line_that_names_the_file(
    environment: Any, adapters: Any, toy: Any, dataset: Path, log: Any, breakage: Callable[[Path], None]
) -> None:
    adapters((Silu,))
    breakage(dataset)
    registered(environment, FIB_ENABLE_APPLY="1")
    assert len(log.warnings) == 1
    assert str(dataset) in log.warnings[0]
    assert "\n" not in log.warnings[0]


@pytest.mark.parametrize("breakage", [broken_json, no_run, binary, torn_measurement])
def test_what_is_sound_in_a_broken_dataset_still_serves(
    environment: Any, adapters: Any, toy: Any, dataset: Path, breakage: Callable[[Path], None]
) -> None:
    adapters((Silu,))
    breakage(dataset)
    ops = toy("ops")
    expected = ops.silu_and_mul(x()) + proven.MARK
    registered(environment, FIB_ENABLE_APPLY="1")
    assert torch.allclose(ops.silu_and_mul(x()), expected)


@pytest.mark.parametrize("breakage", [a_file, a_loop, documents_is_a_file])
@pytest.mark.parametrize("switch", ["FIB_ENABLE_APPLY", "FIB_ENABLE_TRACING"])
def test_an_unreadable_dataset_leaves_the_engine_answering(
    environment: Any, adapters: Any, toy: Any, dataset: Path, breakage: Callable[[Path], None], switch: str
) -> None:
    adapters((Silu,))
    breakage(dataset)
    ops = toy("ops")
    expected = ops.silu_and_mul(x())
    registered(environment, **{switch: "1"})
    assert torch.equal(ops.silu_and_mul(x()), expected)
    plugin.deactivate()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_folder_that_may_not_be_read_keeps_the_plugin_off_with_one_line(
    environment: Any, adapters: Any, own: Any, dataset: Path, log: Any, error: OSError
) -> None:
    adapters((Silu, Plus))
    dataset.mkdir()

    def refuse(path: Path) -> bool:
        raise error

    with environment.context() as context:
        context.setattr(Path, "is_dir", refuse)
        active = registered(context, FIB_ENABLE_APPLY="1", FIB_ENABLE_TRACING="1")
    assert active is None
    assert own()
    assert len(log.warnings) == 1
    assert error.strerror in log.warnings[0]


def test_a_path_too_long_for_the_system_keeps_the_plugin_off(environment: Any, adapters: Any, own: Any) -> None:
    adapters((Silu,))
    assert registered(environment, FIB_ENABLE_APPLY="1", FIB_DATASET_PATH="/" + "x" * 300) is None
    assert own()


# ---- broken solutions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ("\n)\n", "build_failed"),
        ("\nimport nowhere_to_be_found\n", "build_failed"),
        ("\nraise SystemExit(1)\n", "build_failed"),
        ("\ndef run(a, b, c, d): ...\n", "build_failed"),
        ("\ndel run\n", "build_failed"),
        (proven.RAISING, "solution_raised"),
    ],
)
def test_a_broken_solution_is_answered_by_the_engines_op_and_counted(
    environment: Any, adapters: Any, toy: Any, dataset: Path, log: Any, after: str, reason: str
) -> None:
    adapters((Silu,))
    proven.prove(dataset, proven.silu(), proven.solution(proven.silu(), after=after))
    ops = toy("ops")
    expected = ops.silu_and_mul(x())
    active = registered(environment, FIB_ENABLE_APPLY="1")
    assert active is not None
    for _ in range(3):
        assert torch.equal(ops.silu_and_mul(x()), expected)
    line = active.runtime.snapshot()["status"]["ops"]["toy.silu"]
    assert (line["calls"], line["substituted"], line["fallbacks"]) == (3, 0, {reason: 3})
    assert len(log.warnings) == 1
    assert "fast" in log.warnings[0]


# ---- broken adapters ------------------------------------------------------------------------------------------------


def fails() -> Any:
    raise RuntimeError("cannot be imported")


def exits() -> Any:
    sys.exit("this library ends the process on import")


class Unmade(Plus):
    name = "toy.unmade"

    def __init__(self, runtime: Any) -> None:
        raise RuntimeError("cannot be\nmade")


class Undecided(Plus):
    name = "toy.undecided"

    def wanted(self) -> bool:
        raise KeyError("batch_size")


@pytest.mark.parametrize("bad", [fails, exits, (Unmade,), (Undecided,), (Raising,), (adapter("toy.ops:no"),), 5])
def test_a_broken_adapter_is_left_out_with_one_line_and_the_others_work(
    environment: Any, adapters: Any, toy: Any, log: Any, bad: Any
) -> None:
    adapters(bad, (adapter("toy.ops:plan", name="toy.good"),))
    ops = toy("ops")
    assert registered(environment, FIB_ENABLE_TRACING="1") is not None
    assert ops.plan(1) == 1001
    assert len(log.warnings) == 1
    assert "\n" not in log.warnings[0]


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), SystemExit(2), KeyError("x"), MemoryError()])
def test_no_error_leaves_register(environment: Any, own: Any, log: Any, error: BaseException) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise error

    environment.setattr("fib_plugin.plugin.activate", refuse)
    assert registered(environment, FIB_ENABLE_APPLY="1") is None
    assert own()
    assert len(log.warnings) == 1
    assert log.warnings[0].startswith(f"fib-plugin is off: {type(error).__name__}")
    assert "\n" not in log.warnings[0]


# ---- on -------------------------------------------------------------------------------------------------------------


def test_register_is_idempotent(environment: Any, adapters: Any, toy: Any) -> None:
    adapters((Plus,))
    ops = toy("ops")
    first = registered(environment, FIB_ENABLE_TRACING="1")
    replaced = ops.plan
    assert registered(environment) is first
    assert ops.plan is replaced
    assert ops.plan(1) == 1001


def test_deactivate_is_idempotent_and_gives_the_engine_its_own_back(environment: Any, adapters: Any, own: Any) -> None:
    adapters((Plus, Silu))
    plugin.deactivate()
    registered(environment, FIB_ENABLE_TRACING="1")
    assert not own()
    plugin.deactivate()
    plugin.deactivate()
    assert own()
    assert plugin.active() is None


def test_register_after_deactivate_installs_again(environment: Any, adapters: Any, toy: Any) -> None:
    adapters((Plus,))
    ops = toy("ops")
    registered(environment, FIB_ENABLE_TRACING="1")
    plugin.deactivate()
    registered(environment)
    assert ops.plan(1) == 1001


def test_only_the_selected_adapters_are_installed(environment: Any, adapters: Any, toy: Any) -> None:
    adapters((Plus, Silu))
    ops = toy("ops")
    silu = ops.silu_and_mul
    active = registered(environment, FIB_ENABLE_TRACING="1", FIB_ADAPTERS="toy,-toy.silu")
    assert active is not None
    assert list(active.runtime.adapters) == ["toy.plus"]
    assert ops.silu_and_mul is silu


def test_apply_without_a_proven_solution_leaves_the_op_and_notes_why(environment: Any, adapters: Any, own: Any) -> None:
    adapters((Silu,))
    active = registered(environment, FIB_ENABLE_APPLY="1")
    assert active is not None
    assert own()
    assert active.runtime.notes == ["toy.silu: not installed, no proven solution for silu_and_mul"]


def test_an_adapter_of_an_absent_engine_is_passed_over_in_silence(environment: Any, adapters: Any, log: Any) -> None:
    adapters((Plus,))
    active = registered(environment, FIB_ENABLE_TRACING="1")
    assert active is not None
    assert active.installation.patches == []
    assert log.warnings == []


def test_support_adapters_come_last_and_are_not_chosen_by_name(environment: Any, adapters: Any, toy: Any) -> None:
    seen: list[list[str]] = []

    def wanted(self: Adapter) -> bool:
        seen.append(list(self.runtime.adapters))
        return True

    support = adapter("toy.ops:silu_and_mul", name="toy.aid", support=True, wanted=wanted)
    adapters((support, Plus, Silu))
    active = registered(environment, FIB_ENABLE_TRACING="1", FIB_ADAPTERS="toy.silu")
    assert active is not None
    assert list(active.runtime.adapters) == ["toy.silu", "toy.aid"]
    assert seen == [["toy.silu"]]


def test_apply_and_tracing_work_together_from_the_environment(
    environment: Any, adapters: Any, toy: Any, dataset: Path
) -> None:
    adapters((Silu,))
    proven.prove(dataset, proven.silu())
    ops = toy("ops")
    expected = ops.silu_and_mul(x()) + proven.MARK
    registered(environment, FIB_ENABLE_APPLY="1", FIB_ENABLE_TRACING="1")
    assert torch.allclose(ops.silu_and_mul(x()), expected)
    plugin.deactivate()
    recorded = TraceSet.from_path(dataset).workloads["silu_and_mul_fp32_d4"]
    assert [trace.workload.axes for trace in recorded] == [{"batch_size": 4}]


# ---- what an import costs -------------------------------------------------------------------------------------------

HEAVY = ("torch", "pydantic", "numpy", "vllm", "sglang", "triton", "typer", "rich", "wrapt", "safetensors", "msgspec")


def imported(program: str, **variables: str) -> set[str]:
    """Top-level modules that a program leaves imported."""
    text = f"{program}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **variables}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, env=env)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported("import fib_plugin").isdisjoint(HEAVY)


def test_importing_the_entry_point_imports_nothing_heavy() -> None:
    assert imported("import fib_plugin.plugin").isdisjoint(HEAVY)


def test_importing_the_package_imports_few_modules_of_its_own() -> None:
    """What < 50 ms allows, put generously: a module costs a millisecond."""
    count = "import sys; before = set(sys.modules); import fib_plugin; print(len(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 15


def test_registering_with_nothing_enabled_imports_no_torch_and_no_engine() -> None:
    program = "from fib_plugin.plugin import register; register()"
    assert imported(program).isdisjoint({"torch", "numpy", "vllm", "sglang", "triton", "wrapt"})


def test_the_public_names_are_found_where_they_are_used() -> None:
    import fib_plugin

    for name in fib_plugin.__all__:
        assert getattr(fib_plugin, name).__name__ == name
    assert set(fib_plugin.__all__) <= set(dir(fib_plugin))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = fib_plugin.Nothing
