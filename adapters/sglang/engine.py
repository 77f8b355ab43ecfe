"""SGLang as the adapters know it: its distribution, the versions they were written for, and its own ops as text."""

from __future__ import annotations

import functools

from fib_plugin.adapters.live.displaced import displaced_source as _displaced_source
from fib_plugin.adapters.sglang.hooks import Hooks

from fib_plugin.adapter import Engine

SGLANG = Engine("sglang", ("sglang",), Hooks())

#: Versions whose interfaces the targets were read from.
VERSIONS = ">=0.5.11,<0.5.24"

displaced_source = functools.partial(_displaced_source, "fib_plugin.adapters.sglang")
