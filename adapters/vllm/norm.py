"""vLLM RMSNorm -> rmsnorm and fused_add_rmsnorm definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.norm import LiveNorm, write_back
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source
from torch.compiler import is_dynamo_compiling

from fib_plugin.adapter import Adapter, Target
from fib_plugin.dispatch.opaque import observer, opaque
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_RMSNORM = "vllm.model_executor.layers.layernorm:RMSNorm"


class Norm(Adapter):
    """Wraps ``RMSNorm.forward_native``, which eager and compiled models both go through.

    In all these versions it calls ``vllm.ir``, and ``forward_cuda`` calls it, but for a batch-invariant engine, whose
    norms are left alone.
    """

    name = "vllm.norm"
    engine = VLLM
    families = ("rmsnorm", "fused_add_rmsnorm")
    targets = (Target(f"{_RMSNORM}.forward_native", "forward", VERSIONS, params=("self", "x", "residual")),)

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveNorm(
            runtime,
            self.name,
            {"rmsnorm": _engine_rmsnorm, "fused_add_rmsnorm": _engine_fused},
            in_place=True,
        )
        #: Widths with a proven solution: only these leave a compiled graph.
        self.widths = {
            family: frozenset(c["hidden_size"] for c in runtime.candidates(family)) for family in self.families
        }
        #: On a GPU a compiled graph fuses its norms, and an opaque one cost more at large batches than a faster kernel
        #: gained at small ones (scripts/gpu_decode.py, tests/reports/vllm_gpu.json): only who names us wants that.
        self.leaves_gpu_graphs = runtime.settings.names(self.name)
        if any(self.widths.values()) and not self.leaves_gpu_graphs and torch.cuda.is_available():
            runtime.note(f"{self.name}: stays in compiled graphs, which fuse it, unless FIB_ADAPTERS names {self.name}")
        self._plain_widths, self._fused_widths = self.widths["rmsnorm"], self.widths["fused_add_rmsnorm"]
        self.plain = opaque("rmsnorm(Tensor x, Tensor weight, float eps) -> Tensor", self._rmsnorm, _fake_rmsnorm)
        # In place, as the engine's kernel: a graph whose size no solution wins at runs that kernel and copies nothing.
        self.fused = opaque(
            "fused_add_rmsnorm_(Tensor(a!) x, Tensor(b!) residual, Tensor weight, float eps) -> ()",
            self._fused_add_rmsnorm,
            lambda *args: None,
        )
        self.tracing = runtime.tracing
        self.plain_seen = self.fused_seen = None
        #: Whether calls that stay in a graph are seen with their values, for which a graph must keep these in memory.
        self.values = runtime.wants_values("rmsnorm")
        if runtime.tracing and self.values:
            self.plain_seen = observer("rmsnorm_seen(Tensor(a!) x, Tensor weight, float eps) -> ()", self._look_plain)
            self.fused_seen = observer(
                "fused_add_rmsnorm_seen(Tensor(a!) x, Tensor residual, Tensor weight, float eps) -> ()",
                self._look_fused,
            )
        elif runtime.tracing:
            # The result of a plain norm has the shape of its input, which is a view where heads are normalised.
            self.plain_seen = observer("rmsnorm_done(Tensor(a!) out, Tensor weight, float eps) -> ()", self._look_plain)
            self.fused_seen = observer(
                "fused_add_rmsnorm_rows(Tensor(a!) x, Tensor weight, float eps) -> ()", self._look_fused_rows
            )

    def graph_facts(self) -> str:
        widths = {family: sorted(w) for family, w in self.widths.items()}
        seen = [op and op.schema for op in (self.plain_seen, self.fused_seen)]
        return f"{self.plain.schema} {self.fused.schema} {widths} {self.leaves_gpu_graphs} {seen}"

    def displaced(self, definition: Definition) -> str:
        fused = "residual" in definition.inputs
        return displaced_source("fused_add_rmsnorm" if fused else "rmsnorm", definition)

    def forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward_native(norm: Any, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
            if not self.live:
                return original(norm, x, residual)
            # Of all that can be asked this takes least: between an engine's ops nothing of ours is in the caches.
            compiling = is_dynamo_compiling()
            wins = False
            if compiling or not self.tracing:
                wins = x.shape[-1] in (self._plain_widths if residual is None else self._fused_widths)
            if compiling and x.is_cuda and not self.leaves_gpu_graphs:
                wins = False
            if not (wins or self.tracing):
                return original(norm, x, residual)
            # To ask a module for a parameter is slow, and `data` would be another object at every call.
            weight: Any = norm._parameters.get("weight") if not compiling else None
            if weight is None and norm.has_weight:
                weight = norm.weight
            if (
                weight is None
                or not norm.has_weight
                or norm.variance_size_override is not None
                or (dtype := x.dtype) is not weight.dtype
                or dtype not in NAMES
            ):
                if not compiling:
                    self.decline()
                return original(norm, x, residual)
            eps = norm.variance_epsilon
            if compiling:
                weight = weight.data
                if wins and residual is None:
                    return self.plain.call(x, weight, eps)
                if wins and x is not residual:
                    # The engine's op may overwrite both, too: no caller reads them again.
                    self.fused.call(x, residual, weight, eps)
                    return x, residual
                return self._seen(original, norm, x, residual)
            if residual is None:
                out: Any = self.calls.rmsnorm(x, weight, eps)
            else:
                out = self.calls.fused_add_rmsnorm(x, residual, weight, eps)
            return original(norm, x, residual) if out is None else out

        return forward_native

    def _seen(self, original: Callable[..., Any], norm: Any, x: torch.Tensor, residual: torch.Tensor | None) -> Any:
        """The engine's op with an observer beside it, while a graph is traced."""
        weight, eps = norm.weight.data, norm.variance_epsilon
        if residual is not None and self.fused_seen is not None:
            self.fused_seen.call(x, *((residual,) if self.values else ()), weight, eps)
        elif residual is None and self.values and self.plain_seen is not None:
            self.plain_seen.call(x, weight, eps)
        out = original(norm, x, residual)
        if residual is None and not self.values and self.plain_seen is not None:
            self.plain_seen.call(out, weight, eps)
        return out

    def _look_fused_rows(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        if self.live:
            self.calls.fused_add_rmsnorm(x, x, weight, eps)

    def _look_plain(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        if self.live:
            self.calls.rmsnorm(x, weight, eps)

    def _look_fused(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        if self.live:
            self.calls.fused_add_rmsnorm(x, residual, weight, eps)

    def _rmsnorm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out = self.calls.rmsnorm(x, weight, eps) if self.live else None
        return _engine_rmsnorm(x, weight, eps) if out is None else out

    def _fused_add_rmsnorm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        out = self.calls.fused_add_rmsnorm(x, residual, weight, eps) if self.live else None
        write_back(_engine_fused(x, residual, weight, eps) if out is None else out, (x, residual))


def _engine_rmsnorm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    from vllm import ir

    return _kernel(ir.ops.rms_norm, x)(x, weight, eps)  # type: ignore[no-any-return]


def _engine_fused(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """May write its result into x and residual."""
    from vllm import ir

    return _kernel(ir.ops.fused_add_rms_norm, x)(x, residual, weight, eps)  # type: ignore[no-any-return]


def _kernel(op: Any, x: torch.Tensor) -> Any:
    """The engine's own kernel for the op, where it has one for the device.

    In a model that is compiled the op goes to its torch reference, for Inductor to fuse. An opaque op is outside of
    what Inductor sees: there the reference would be half a dozen kernels.
    """
    kernel = op.impls.get("vllm_c") if x.is_cuda else None
    return kernel.impl_fn if kernel is not None and kernel.supported else op


def _fake_rmsnorm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
