"""Every FIB_* variable, in one place, typed. plugin.py and the CLI read it; nothing else reads the environment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_HOME = Path("~/.cache/flashinfer_bench")


class SettingsError(ValueError):
    """A FIB_* variable has a value that cannot be used; the message names variable, value and remedy."""


class Settings(BaseSettings):
    """What the operator asked for. Frozen: a change needs a new process or an explicit enable_*() call."""

    model_config = SettingsConfigDict(env_prefix="FIB_", env_ignore_empty=True, frozen=True, extra="ignore")

    enable_apply: bool = Field(default=False, description="1: run proven solutions in place of the engine's ops")
    enable_tracing: bool = Field(default=False, description="1: write live workloads into the dataset")
    disable: bool = Field(default=False, description="1: kill switch, nothing is patched whatever else is set")
    dataset_path: Path = Field(default=_HOME / "dataset", description="the FlashInfer Trace dataset to read and write")
    cache_path: Path = Field(default=_HOME / "cache", description="built solutions and status files")
    lock_path: Path = Field(default=_HOME / "fib.lock", description="which solutions the operator trusts (fib trust)")
    capture_config: Path | None = Field(
        default=None, description="YAML file that says what tracing dumps and keeps; unset: one workload a shape"
    )
    adapters: str = Field(
        default="", description="comma list of adapters to use, `-name` excludes: vllm.gemm,-vllm.rope"
    )
    strict: bool = Field(default=False, description="1: a failing solution raises instead of falling back")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="level of our own log lines"
    )
    apply_margin: float = Field(
        default=0.03,
        gt=-0.5,
        description="a solution must beat the displaced op by this share; less than 0: may be that much slower alone",
    )
    bench_threads: int | None = Field(default=None, ge=1, description="threads of a CPU benchmark; all cores if unset")
    apply_any_hardware: bool = Field(
        default=False, description="1: also use measurements from other hardware and versions"
    )

    probation: bool = Field(
        default=True, description="0: proven solutions run at once, without a comparison in this process first"
    )
    recheck_every: int = Field(
        default=0, ge=0, description="compare a running solution with the engine's op again every so many eager calls"
    )
    nan_check_every: int = Field(
        default=0, ge=0, description="look for NaN and Inf in a solution's outputs every so many eager calls"
    )

    @field_validator("dataset_path", "cache_path", "lock_path", "capture_config")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        try:
            return None if value is None else value.expanduser().absolute()
        except RuntimeError as error:  # ~ without a home, or of a user that does not exist
            raise ValueError(f"{error}; name the folder in full") from None

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def wanted(self) -> bool:
        """Whether anything at all is to be patched."""
        return not self.disable and (self.enable_apply or self.enable_tracing)

    def selects(self, name: str) -> bool:
        """Whether FIB_ADAPTERS admits the adapter ``name`` (``vllm.gemm``; ``vllm`` stands for all of an engine)."""
        asked = [part.strip() for part in self.adapters.split(",") if part.strip()]
        included = [part for part in asked if not part.startswith("-")]
        excluded = [part[1:] for part in asked if part.startswith("-")]
        return (not included or _matches(name, included)) and not _matches(name, excluded)

    def names(self, name: str) -> bool:
        """Whether FIB_ADAPTERS asks for the adapter ``name`` by its own name, not for all of its engine."""
        return name in (part.strip() for part in self.adapters.split(","))

    def unknown_adapters(self, known: Iterable[str]) -> list[str]:
        """Names in FIB_ADAPTERS that no adapter in ``known`` answers to."""
        names = list(known)
        asked = [part.strip().removeprefix("-") for part in self.adapters.split(",") if part.strip()]
        return [part for part in asked if not any(_matches(name, [part]) for name in names)]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name == pattern or name.startswith(pattern + ".") for pattern in patterns)


def load() -> Settings:
    """Settings from the process environment.

    Raises:
        SettingsError: names each bad variable, its value and what it takes.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = str(problem["loc"][0])
            field = Settings.model_fields[key]
            lines.append(f"FIB_{key.upper()}={problem['input']!r}: {problem['msg']} ({field.description})")
        raise SettingsError("; ".join(lines)) from None
