"""What the operator asks capture to dump and to keep: in a YAML file (FIB_CAPTURE_CONFIG) or in code.

Policy resolves it once a definition: a rule of the definition goes over one of its op type, that over the default.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from fib_plugin.dataset.yaml_file import YamlModel, read_yaml
from fib_plugin.schema import Definition, SchemaError
from fib_plugin.schema.errors import rule

log = logging.getLogger("fib_plugin")

Keep = Literal["first_k_by_key", "all", "reservoir", "attention", "off"]
Dump = Literal["none", "structural", "all"]

#: How many are kept where a rule names what to keep, but no k.
DEFAULT_K: Mapping[Keep, int] = {"first_k_by_key": 1, "all": 1, "reservoir": 64, "attention": 4, "off": 1}

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}


def _off(value: object) -> object:
    # YAML 1.1 reads a bare `off` as false.
    return "off" if value is False else value


def size(value: object) -> object:
    """``10GiB`` as a number of bytes; what is no text is left to the model's own check."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip())
    if match is None or match[2] not in _UNITS:
        raise rule(f"{value!r} is no size", remedy="write bytes, or a number with a unit: 500MB, 10GiB")
    return int(float(match[1]) * _UNITS[match[2]])


class Rule(YamlModel):
    """What one level says; what it leaves out comes from the level below."""

    dump: Dump | tuple[str, ...] | None = Field(
        default=None, description="none, structural, all, or a list of inputs beside the structural ones"
    )
    keep: Annotated[Keep | None, BeforeValidator(_off)] = Field(
        default=None, description="first_k_by_key, all, reservoir, attention or off"
    )
    k: int | None = Field(default=None, ge=1, description="how many are kept: per key, length class or definition")
    sample_rate: float | None = Field(default=None, ge=0, le=1, description="share of the calls that is looked at")
    seed: int | None = Field(default=None, description="of the reservoir and of sampling")

    @field_validator("dump", mode="before")
    @classmethod
    def _dump(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in ("none", "structural", "all"):
            raise rule(
                f"{value!r} is nothing to dump", remedy="write none, structural, all, or a list of inputs in [ ]"
            )
        if isinstance(value, (list, tuple)) and not all(isinstance(name, str) for name in value):
            raise rule("an input's name is text", remedy="write a list of inputs such as [q, k_cache]")
        return tuple(value) if isinstance(value, list) else value


class Limits(YamlModel):
    """Quotas; what is past them is counted and not written."""

    workloads_per_definition: int | None = Field(
        default=None, ge=0, description="most workloads that a process writes of one definition"
    )
    bytes: Annotated[int | None, BeforeValidator(size)] = Field(
        default=64 << 30, ge=0, description="size of blob/ and workloads/, all processes together: 10GiB"
    )


class CaptureConfig(YamlModel):
    """The whole file.

    >>> CaptureConfig(op_types={"sampling": Rule(keep="reservoir", k=64)})
    >>> CaptureConfig.from_yaml(Path("capture.yaml"))
    """

    default: Rule = Field(default=Rule(), description="rule")
    op_types: dict[str, Rule] = Field(default={}, description="{op type: rule}")
    definitions: dict[str, Rule] = Field(default={}, description="{definition: rule}")
    quota: Limits = Field(default=Limits(), description="{workloads_per_definition: number, bytes: size}")

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, content: Any) -> Any:
        # A section whose every line is commented out reads as nothing.
        return {k: v for k, v in content.items() if v is not None} if isinstance(content, dict) else content

    @classmethod
    def from_yaml(cls, path: str | Path) -> CaptureConfig:
        """The content of a file.

        Raises:
            SchemaError: names file, field and remedy.
        """
        try:
            return read_yaml(cls, Path(path))
        except SchemaError as error:
            raise _explained(error) from None

    def wants_values(self, op_type: str) -> bool:
        """Whether any definition of ``op_type`` may have more than its structural inputs written down."""
        rules = (self.default, self.op_types.get(op_type), *self.definitions.values())
        return any(rule is not None and rule.dump not in (None, "none", "structural") for rule in rules)

    def terms(self, definition: Definition) -> Terms:
        """What holds for one definition."""
        terms = Terms()
        for level in (self.default, self.op_types.get(definition.op_type), self.definitions.get(definition.name)):
            if level is not None:
                terms = terms.under(level)
        return terms


@dataclass(frozen=True, slots=True)
class Terms:
    """A rule without gaps."""

    dump: Dump | tuple[str, ...] = "structural"
    keep: Keep = "first_k_by_key"
    k: int = 1
    sample_rate: float = 1.0
    seed: int = 0

    def under(self, over: Rule) -> Terms:
        """These terms where ``over`` says nothing. A k belongs to the ``keep`` that it stands beside."""
        keep = self.keep if over.keep is None else over.keep
        k = self.k if over.keep is None or over.keep == self.keep else DEFAULT_K[keep]
        return Terms(
            dump=self.dump if over.dump is None else over.dump,
            keep=keep,
            k=k if over.k is None else over.k,
            sample_rate=self.sample_rate if over.sample_rate is None else over.sample_rate,
            seed=self.seed if over.seed is None else over.seed,
        )


def load(path: Path | None) -> CaptureConfig:
    """The config that FIB_CAPTURE_CONFIG names, or the default one.

    Raises:
        SchemaError: the file is missing or broken.
    """
    return CaptureConfig() if path is None else CaptureConfig.from_yaml(path)


def for_engine(path: Path | None) -> CaptureConfig | None:
    """Like ``load``, but None and one line in the log when that fails: tracing is then to be off.

    With a default in its place the process might fill the disk that the file was written to protect.
    """
    try:
        return load(path)
    except SchemaError as error:
        log.error("tracing is off: FIB_CAPTURE_CONFIG: %s", error)
        return None


def _explained(error: SchemaError) -> SchemaError:
    """Below the top level the remedy names the fields of a rule or of the quota, not those of the file."""
    model: type[YamlModel] = CaptureConfig
    parts = (error.field or "").split(".")
    if parts[0] == "quota" and len(parts) > 1:
        model = Limits
    elif (parts[0] == "default" and len(parts) > 1) or len(parts) > 2:
        model = Rule
    remedy = error.remedy
    if remedy.startswith("write default: "):
        remedy = "write " + ", ".join(f"{name}: <{field.description}>" for name, field in model.model_fields.items())
    return SchemaError(
        error.problem,
        file=error.file,
        line=error.line,
        field=error.field,
        remedy=remedy,
        more=[_explained(e) for e in error.more],
    )
