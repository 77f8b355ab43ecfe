"""SGLang as the adapters know it: its distribution, the versions they were written for, and its own ops as text."""

from __future__ import annotations

import functools
from typing import Any

from fib_plugin.adapters.live.displaced import displaced_source as _displaced_source
from fib_plugin.adapters.sglang.hooks import Hooks

from fib_plugin.adapter import Engine

SGLANG = Engine("sglang", ("sglang",), Hooks())

#: Versions whose interfaces the targets were read from.
VERSIONS = ">=0.5.11,<0.5.24"

displaced_source = functools.partial(_displaced_source, "fib_plugin.adapters.sglang")


def weight_of(layer: Any) -> Any:
    """``layer.weight``, from the module's own table where it is there: to ask the module itself takes much longer."""
    parameters = layer.__dict__.get("_parameters")
    weight = None if parameters is None else parameters.get("weight")
    return layer.weight if weight is None else weight
