"""SGLang's attention backends -> gqa_paged_decode and gqa_paged_prefill definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fib_plugin.adapters.live.attention import LiveAttention, Step
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.nesting import within
from fib_plugin.adapters.sglang.engine import SGLANG, VERSIONS, displaced_source
from fib_plugin.adapters.sglang.step import Steps, kv_pool, unsupported_batch, write_kv

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_BACKENDS = "sglang.srt.layers.attention"
_PARAMS = ("self", "q", "k", "v", "layer", "forward_batch", "save_kv_cache")
_TRITON = (*_PARAMS, "sinks")
_TRITON_SINCE = (*_TRITON, "score_mod", "aux_tensors")
_FA = (*_PARAMS, "q_rope", "k_rope", "sinks")
_FA_SINCE = (*_FA, "q_descale", "k_descale", "v_descale", "score_mod", "aux_tensors", "rel_bias", "rel_bias_event")


def _both(backend: str, versions: str, params: tuple[str, ...]) -> tuple[Target, Target]:
    """A backend's two methods, in the versions that have these parameters."""
    return (
        Target(f"{_BACKENDS}.{backend}.forward_decode", "decode", versions, params=params),
        Target(f"{_BACKENDS}.{backend}.forward_extend", "extend", versions, params=params),
    )


_DECLINED = object()


class _Call(NamedTuple):
    """What the engine passed."""

    original: Callable[..., torch.Tensor]
    backend: Any
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    layer: Any
    batch: Any
    save: bool


class Attention(Adapter):
    """Wraps the methods that write the new keys and values and attend, in the backends for causal grouped queries.

    The pool of a layer is token-major, as solutions read it. In CUDA graphs decode is substituted where the backend
    keeps page lists on the device (FlashInfer, Triton), by one solution for all lengths; prefill runs in Python.
    """

    name = "sglang.attention"
    engine = SGLANG
    families = ("gqa_paged_decode", "gqa_paged_prefill")
    targets = (
        *_both("torch_native_backend:TorchNativeAttnBackend", VERSIONS, _PARAMS),
        *_both("flashinfer_backend:FlashInferAttnBackend", VERSIONS, _PARAMS),
        *_both("triton_backend:TritonAttnBackend", ">=0.5.11,<0.5.16", _TRITON),
        *_both("triton_backend:TritonAttnBackend", ">=0.5.16,<0.5.24", _TRITON_SINCE),
        *_both("flashattention_backend:FlashAttentionBackend", ">=0.5.11,<0.5.16", _FA),
        *_both("flashattention_backend:FlashAttentionBackend", ">=0.5.16,<0.5.21", _FA_SINCE),
        *_both("flashattention_backend:FlashAttentionBackend", ">=0.5.21,<0.5.24", (*_FA_SINCE, "return_lse")),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveAttention(runtime, self.name, _engine, handed=False)
        self.steps = Steps()
        #: By layer object: whether the definitions can express it; the object is kept, so that its id stays its own.
        self._layers: dict[int, tuple[Any, bool]] = {}

    def displaced(self, definition: Definition) -> str:
        return displaced_source("gqa_paged", definition)

    def decode(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._around(original, True)

    def extend(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._around(original, False)

    def _around(self, original: Callable[..., Any], decode: bool) -> Callable[..., Any]:
        def forward(
            backend: Any,
            q: Any,
            k: Any,
            v: Any,
            layer: Any,
            forward_batch: Any,
            save_kv_cache: bool = True,
            **more: Any,
        ) -> Any:
            if self.live and not torch.compiler.is_compiling():
                call = _Call(original, backend, q, k, v, layer, forward_batch, save_kv_cache)
                asked = any(value is not None and value is not False for value in more.values())
                if asked or k is None or not self._expressible(call):
                    self.decline()
                else:
                    # A backend may make several calls of FlashInfer's, in parts that are other families.
                    out = within(self._attend, decode, call)
                    if out is _DECLINED:
                        self.decline()
                    elif out is not None:
                        return out
                    else:
                        return within(original, backend, q, k, v, layer, forward_batch, save_kv_cache, **more)
            return original(backend, q, k, v, layer, forward_batch, save_kv_cache, **more)

        return forward

    def _expressible(self, call: _Call) -> bool:
        known = self._layers.get(id(call.layer))
        if known is None:
            fits = not _unsupported(call.backend, call.layer) and _pool(call)[0].dtype is call.q.dtype
            known = self._layers[id(call.layer)] = (call.layer, fits)
        return known[1]

    def _attend(self, decode: bool, call: _Call) -> Any:
        """The attention's result by a solution, the keys and values written; None when the engine's op must answer.

        _DECLINED: it must, and no definition says what it does.
        """
        layer = call.layer
        q = call.q.reshape(-1, layer.tp_q_head_num, layer.head_dim)
        if q.dtype not in NAMES or unsupported_batch(call.batch, decode, q.shape[0]):
            return _DECLINED
        step = self.steps.of(call.backend, layer, call.batch, decode)
        if step is None:
            return _DECLINED
        site = self.calls.site(step, q, layer.tp_k_head_num)
        result = site.attempt_shown((q.shape[0], step.length_class), self._shown, self._inputs, call, step, q)
        if result is None:
            return None
        output: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return output.reshape(-1, layer.tp_q_head_num * layer.head_dim)

    def _shown(self, call: _Call, step: Step, q: torch.Tensor) -> tuple[object, ...]:
        return self.calls.shown(step, q, *_pool(call), call.layer.scaling)

    def _inputs(self, call: _Call, step: Step, q: torch.Tensor) -> tuple[object, ...]:
        if call.save:
            write_kv(call.backend, call.layer, call.batch, call.k, call.v)
        return self.calls.inputs(step, q, *_pool(call), call.layer.scaling)


def _pool(call: _Call) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of the layer, [slots, 1, kv_heads, head_dim]."""
    keys, values = kv_pool(call.backend, call.batch).get_kv_buffer(call.layer.layer_id)
    shape = (-1, 1, call.layer.tp_k_head_num, call.layer.head_dim)
    return keys.view(shape), values.view(shape)


def _engine(call: _Call, step: Step, q: torch.Tensor) -> torch.Tensor:
    output = call.original(call.backend, call.q, call.k, call.v, call.layer, call.batch, call.save)
    return output.reshape(q.shape)


def _unsupported(backend: Any, layer: Any) -> bool:
    """Whether the layer has what the definitions lack: a window, soft cap, scales, other heads for values, no mask."""
    return bool(
        layer.is_cross_attention
        or getattr(layer.attn_type, "value", layer.attn_type) != "decoder"
        or (layer.sliding_window_size is not None and layer.sliding_window_size > -1)
        or layer.logit_cap
        or layer.k_scale is not None
        or layer.qk_head_dim != layer.head_dim
        or layer.v_head_dim != layer.head_dim
        or layer.tp_v_head_num != layer.tp_k_head_num
        or getattr(layer, "pos_encoding_mode", "NONE") != "NONE"
        or getattr(layer, "xai_temperature_len", -1) > 0
        or getattr(backend, "use_mla", False)
        or getattr(backend, "dcp_size", 1) > 1
        or getattr(backend, "has_local_attention", False)
        or getattr(backend, "enable_mis", False)
        or getattr(backend, "is_dllm_model", False)
        or getattr(backend, "use_sliding_window_kv_pool", False)
        or str(getattr(backend, "kv_cache_dtype_str", "auto")) != "auto"
    )
