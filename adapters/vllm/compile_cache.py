"""Keeps vLLM's compiled artifacts apart: with and without the plugin, and with different adapters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM

import fib_plugin
from fib_plugin.adapter import Adapter, Target


class CompileCache(Adapter):
    """Wraps ``VllmConfig.compute_hash``, the key of the compile cache.

    Without it an artifact made without the plugin is loaded with it, and the substitution is silently absent; the
    reverse names ops that are not registered.
    """

    name = "vllm.compile_cache"
    engine = VLLM
    support = True
    targets = (Target("vllm.config.vllm:VllmConfig.compute_hash", "compute_hash", VERSIONS),)

    def wanted(self) -> bool:
        return any(adapter.engine is VLLM for adapter in self.runtime.adapters.values())

    def compute_hash(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def compute_hash(config: Any, *args: Any, **kwargs: Any) -> str:
            key: str = original(config, *args, **kwargs)
            if not self.live:
                return key
            return hashlib.sha256(f"{key} {self.fingerprint()}".encode()).hexdigest()[: len(key)]

        return compute_hash

    def fingerprint(self) -> str:
        """What of us changes a traced graph: version, adapters, schemas of opaque ops and the sizes they take."""
        facts = sorted((name, adapter.graph_facts()) for name, adapter in self.runtime.adapters.items())
        return f"fib-plugin {fib_plugin.__version__} {facts}"
