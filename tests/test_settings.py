"""Settings: every FIB_* variable, its default, and one line that helps when its value cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from fib_plugin.settings import Settings, SettingsError, load

pytestmark = pytest.mark.usefixtures("environment")


def with_(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load()


def test_nothing_is_wanted_when_nothing_is_set(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("FIB_DATASET_PATH")
    environment.delenv("FIB_CACHE_PATH")
    settings = load()
    assert not settings.wanted
    assert settings.dataset_path == Path.home() / ".cache/flashinfer_bench/dataset"
    assert settings.cache_path == Path.home() / ".cache/flashinfer_bench/cache"
    assert (settings.strict, settings.disable, settings.adapters, settings.log_level) == (False, False, "", "INFO")
    assert (settings.apply_margin, settings.apply_any_hardware) == (0.03, False)


@pytest.mark.parametrize("variable", ["FIB_ENABLE_APPLY", "FIB_ENABLE_TRACING"])
def test_each_switch_alone_makes_the_plugin_wanted(environment: pytest.MonkeyPatch, variable: str) -> None:
    settings = with_(environment, **{variable: "1"})
    assert settings.wanted
    assert [settings.enable_apply, settings.enable_tracing].count(True) == 1


def test_apply_and_tracing_do_not_exclude_each_other(environment: pytest.MonkeyPatch) -> None:
    settings = with_(environment, FIB_ENABLE_APPLY="1", FIB_ENABLE_TRACING="1")
    assert settings.enable_apply
    assert settings.enable_tracing


def test_the_kill_switch_beats_every_other_switch(environment: pytest.MonkeyPatch) -> None:
    assert not with_(environment, FIB_ENABLE_APPLY="1", FIB_ENABLE_TRACING="1", FIB_DISABLE="1").wanted


@pytest.mark.parametrize(("text", "value"), [("1", True), ("true", True), ("on", True), ("0", False), ("no", False)])
def test_switches_read_the_usual_spellings(environment: pytest.MonkeyPatch, text: str, value: bool) -> None:
    assert with_(environment, FIB_STRICT=text).strict is value


def test_an_empty_variable_counts_as_not_set(environment: pytest.MonkeyPatch) -> None:
    assert with_(environment, FIB_ENABLE_APPLY="", FIB_LOG_LEVEL="").log_level == "INFO"


def test_paths_are_made_absolute_and_home_is_expanded(environment: pytest.MonkeyPatch) -> None:
    settings = with_(environment, FIB_DATASET_PATH="~/data", FIB_CACHE_PATH="relative/cache")
    assert settings.dataset_path == Path.home() / "data"
    assert settings.cache_path == Path.cwd() / "relative/cache"


def test_the_log_level_may_be_written_in_lower_case(environment: pytest.MonkeyPatch) -> None:
    assert with_(environment, FIB_LOG_LEVEL="debug").log_level == "DEBUG"


def test_settings_cannot_be_changed(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().strict = True  # type: ignore[misc]


BAD = [
    ("FIB_ENABLE_APPLY", "maybe", "1: run proven solutions"),
    ("FIB_ENABLE_TRACING", "2", "1: write live workloads"),
    ("FIB_DISABLE", "please", "1: kill switch"),
    ("FIB_STRICT", "very", "1: a failing solution raises"),
    ("FIB_LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ("FIB_APPLY_MARGIN", "-1", "greater than -0.5"),
    ("FIB_APPLY_MARGIN", "nan", "greater than -0.5"),
    ("FIB_APPLY_MARGIN", "much", "valid number"),
    ("FIB_APPLY_ANY_HARDWARE", "h200", "1: also use measurements"),
    ("FIB_DATASET_PATH", "~nobody-of-that-name/data", "name the folder in full"),
    ("FIB_CACHE_PATH", "~nobody-of-that-name/cache", "name the folder in full"),
]


@pytest.mark.parametrize(("variable", "value", "remedy"), BAD)
def test_a_bad_value_is_told_in_one_line_with_variable_value_and_remedy(
    environment: pytest.MonkeyPatch, variable: str, value: str, remedy: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        with_(environment, **{variable: value})
    text = str(raised.value)
    assert text.startswith(f"{variable}=")
    assert value in text
    assert remedy in text
    assert "\n" not in text


def test_several_bad_values_are_told_together(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"FIB_ENABLE_APPLY='x'.*; FIB_STRICT='z'"):
        with_(environment, FIB_ENABLE_APPLY="x", FIB_STRICT="z")


ALL = ["vllm.gemm", "vllm.norm", "vllm.rope", "sglang.gemm", "vllmish.gemm"]


@pytest.mark.parametrize(
    ("asked", "selected"),
    [
        ("", ALL),
        ("vllm.gemm", ["vllm.gemm"]),
        ("vllm.gemm, vllm.rope", ["vllm.gemm", "vllm.rope"]),
        ("vllm", ["vllm.gemm", "vllm.norm", "vllm.rope"]),
        ("-vllm.rope", ["vllm.gemm", "vllm.norm", "sglang.gemm", "vllmish.gemm"]),
        ("vllm,-vllm.rope", ["vllm.gemm", "vllm.norm"]),
        ("vllm.gemm,-vllm.rope", ["vllm.gemm"]),
        ("vllm.gemm,-vllm", []),
        (" , ,", ALL),
    ],
)
def test_adapters_are_included_and_excluded_by_name(
    environment: pytest.MonkeyPatch, asked: str, selected: list[str]
) -> None:
    settings = with_(environment, FIB_ADAPTERS=asked)
    assert [name for name in ALL if settings.selects(name)] == selected


@pytest.mark.parametrize("asked", ["vllm.gem", "-vllm.gem", "gemm", "- vllm.gemm", "vllm.gemm.more"])
def test_a_name_that_no_adapter_answers_to_is_unknown(environment: pytest.MonkeyPatch, asked: str) -> None:
    settings = with_(environment, FIB_ADAPTERS=f"vllm.norm,{asked}")
    assert settings.unknown_adapters(ALL) == [asked.removeprefix("-")]


def test_engines_and_adapters_that_exist_are_known(environment: pytest.MonkeyPatch) -> None:
    assert with_(environment, FIB_ADAPTERS="vllm,-sglang.gemm").unknown_adapters(ALL) == []
