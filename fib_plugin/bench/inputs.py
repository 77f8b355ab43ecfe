"""Makes the input tensors of a workload: real values where the workload saved some, sensible random ones elsewhere."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fib_plugin.schema import Definition, SafetensorsInput, ScalarInput, TensorSpec, Workload

if TYPE_CHECKING:
    import torch

_POOL = 1 << 22
_KEPT_POOLS = 6
#: Inputs whose last axis is summed over: scaled so that sums stay near 1.
_WEIGHTS = ("B", "w13", "w2", "weight")
#: The largest number of an fp8 format.
_LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
#: Where normals are to end after quantization: so many deviations are the largest number of the format.
_DEVIATIONS = 4.5


class InputError(ValueError):
    """A workload from which no inputs can be made; the message names workload, input and remedy."""


def fresh_seed() -> int:
    """A seed nobody can predict."""
    return int.from_bytes(os.urandom(7), "little")


class Normals:
    """Normal numbers by the megabyte: windows at random offsets of one pool, which costs a copy and no arithmetic."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pools: OrderedDict[tuple[Any, float], torch.Tensor] = OrderedDict()
        self._base: torch.Tensor | None = None

    def take(self, shape: Sequence[int], dtype: torch.dtype, scale: float, draw: np.random.Generator) -> torch.Tensor:
        """A tensor of normals with standard deviation ``scale``."""
        import torch

        pool = self._pool(dtype, scale)
        result = torch.empty(math.prod(shape), dtype=dtype)
        done = 0
        while done < result.numel():
            start = int(draw.integers(_POOL))
            count = min(result.numel() - done, _POOL - start)
            result[done : done + count] = pool[start : start + count]
            done += count
        return result.view(tuple(shape))

    def _pool(self, dtype: torch.dtype, scale: float) -> torch.Tensor:
        import torch

        if self._base is None:
            self._base = torch.randn(_POOL, generator=torch.Generator().manual_seed(self._seed))
        key = (dtype, scale)
        if key not in self._pools:
            largest = _LARGEST.get(str(dtype).removeprefix("torch."), math.inf)
            self._pools[key] = (self._base * scale).clamp(-largest, largest).to(dtype)
            if len(self._pools) > _KEPT_POOLS:
                self._pools.popitem(last=False)
        self._pools.move_to_end(key)
        return self._pools[key]


class InputMaker:
    """Inputs for workloads of one dataset. ``seed`` and the seed of each call reproduce them."""

    def __init__(self, root: Path | None, seed: int) -> None:
        self._root = root
        self.seed = seed
        self._normals = Normals(seed)

    def make(self, definition: Definition, workload: Workload, seed: int) -> list[Any]:
        """Tensors and numbers in the definition's order.

        Raises:
            InputError: an axis or an input is missing, or saved data do not fit.
        """
        draw = np.random.default_rng((self.seed, seed))
        saved = self._saved(definition, workload)
        axes = {**workload.axes, **definition.const_axes}
        _trim_pool(definition, workload, axes, saved)
        inputs: list[Any] = []
        for name, spec in definition.inputs.items():
            source = workload.inputs.get(name)
            if isinstance(source, ScalarInput):
                inputs.append(_scalar(spec, source.value, axes, f"workload {workload.uuid}"))
            elif name in saved:
                inputs.append(saved[name].clone())
            elif spec.shape is None:
                inputs.append(_likely_number(name, spec, axes))
            else:
                inputs.append(self._random(name, spec, axes, draw, definition))
        return inputs

    def _saved(self, definition: Definition, workload: Workload) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError, safe_open

        saved = {}
        axes = {**workload.axes, **definition.const_axes}
        for name, source in workload.inputs.items():
            if not isinstance(source, SafetensorsInput) or name not in definition.inputs:
                continue
            if self._root is None:
                raise InputError(f"workload {workload.uuid}: input {name} is saved in a file, the dataset is in memory")
            file = self._root / source.path
            try:
                with safe_open(str(file), framework="pt") as tensors:
                    value = tensors.get_tensor(source.tensor_key)
            except (OSError, SafetensorError) as error:
                raise InputError(
                    f"workload {workload.uuid}: input {name} cannot be read from {file}: {error} "
                    "(capture the workload again, or remove its line)"
                ) from error
            _check_form(definition.inputs[name], value, axes, f"workload {workload.uuid}: input {name} in {file}")
            saved[name] = value
        return saved

    def _random(
        self, name: str, spec: TensorSpec, axes: dict[str, int], draw: np.random.Generator, definition: Definition
    ) -> torch.Tensor:
        import torch

        try:
            shape = [axes[axis] for axis in spec.shape or ()]
        except KeyError as error:
            raise InputError(f"input {name}: the workload gives no size for axis {error.args[0]!r}") from error
        dtype: torch.dtype = getattr(torch, str(spec.dtype), torch.float32)
        if dtype is torch.bool:
            return torch.from_numpy(draw.random(shape) < 0.5)
        if not dtype.is_floating_point:
            return torch.from_numpy(_integers(name, shape, axes, draw)).to(dtype)
        if name.endswith(("_scale", "_scales")):
            usual = _usual_scale(name, definition, axes)
            # No two blocks of a weight have the same scale: a kernel that mixes them up must not get away with it.
            return torch.from_numpy(usual * draw.uniform(0.5, 1.5, shape)).to(dtype)
        if str(spec.dtype) in _LARGEST:
            return self._normals.take(shape, dtype, _LARGEST[str(spec.dtype)] / _DEVIATIONS, draw)
        if name == "probs":
            # From nearly flat to nearly certain rows, as temperatures and prompts make them.
            spread = torch.from_numpy(draw.uniform(0.5, 4.0, [*shape[:-1], 1])).float()
            return (self._normals.take(shape, torch.float32, 1.0, draw) * spread).softmax(dim=-1).to(dtype)
        if name == "topk_weights":
            return self._normals.take(shape, torch.float32, 1.0, draw).softmax(dim=-1).to(dtype)
        if name == "top_p":
            return torch.from_numpy(draw.uniform(0.5, 0.95, shape)).to(dtype)
        if name == "cos_sin_cache":
            return _angles(shape).to(dtype)
        if name == "weight" and len(shape) == 1:
            return (1.0 + self._normals.take(shape, torch.float32, 0.1, draw)).to(dtype)
        scale = 1.0 / math.sqrt(max(1, shape[-1])) if name in _WEIGHTS and len(shape) > 1 else 1.0
        return self._normals.take(shape, dtype, scale, draw)


def _usual_scale(name: str, definition: Definition, axes: dict[str, int]) -> float:
    """What makes of quantized normals such as the op expects: activations of deviation 1, sums of weights near 1."""
    of = max((one for one in definition.inputs if one != name and name.startswith(f"{one}_")), key=len, default="")
    spec = definition.inputs.get(of)
    if spec is None or not spec.shape:
        return 1.0
    deviation = 1.0 / math.sqrt(max(1, axes.get(spec.shape[-1], 1))) if of in _WEIGHTS else 1.0
    return deviation * _DEVIATIONS / _LARGEST.get(str(spec.dtype), _LARGEST["float8_e4m3fn"])


def _scalar(spec: TensorSpec, value: bool | float, axes: dict[str, int], where: str) -> Any:
    if spec.shape is None:
        return value
    import torch

    try:
        return torch.full([axes[axis] for axis in spec.shape], value, dtype=getattr(torch, str(spec.dtype)))
    except KeyError as error:
        raise InputError(f"{where}: no size for axis {error.args[0]!r}") from error


def _likely_number(name: str, spec: TensorSpec, axes: dict[str, int]) -> bool | int | float:
    if name == "sm_scale":
        return 1.0 / math.sqrt(axes.get("head_dim", 1))
    kind = str(spec.dtype)
    return False if kind == "bool" else 1.0 if kind.startswith(("float", "bfloat")) else 1


def _integers(name: str, shape: list[int], axes: dict[str, int], draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """Integers that lead nowhere out of bounds: what an input of this name indexes is known, others get zeros."""
    if name == "positions":
        return draw.integers(0, max(1, axes.get("max_seq_len", 1)), shape)
    if name == "topk_ids":
        experts = axes.get("num_experts", 1)
        return draw.random([*shape[:-1], experts]).argsort(axis=-1)[..., : shape[-1]]
    if name == "kv_indices":
        return draw.integers(0, max(1, axes.get("num_pages", 1)), shape)
    if name == "top_k":
        return draw.integers(1, min(64, axes.get("vocab_size", 64)) + 1, shape)
    if name.endswith("indptr"):
        total = axes.get("num_kv_indices" if name == "kv_indptr" else "total_q", 0)
        return np.linspace(0, total, shape[0]).astype(np.int64)
    return np.zeros(shape, np.int64)


def _angles(shape: list[int]) -> torch.Tensor:
    """Rows of cosines, then sines, of position times the usual frequencies."""
    import torch

    rows, width = shape
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _trim_pool(
    definition: Definition, workload: Workload, axes: dict[str, int], saved: dict[str, torch.Tensor]
) -> None:
    """Make no pages past the last one that is read: an engine's pool may fill its host's memory."""
    indices = saved.get("kv_indices")
    if indices is None or "num_pages" not in definition.var_axes:
        return
    if any(name in saved for name in ("k_cache", "v_cache")):
        return
    used = int(indices.max()) + 1 if indices.numel() else 1
    if used > workload.axes.get("num_pages", used):
        raise InputError(
            f"workload {workload.uuid}: kv_indices reads page {used - 1}, but num_pages is {workload.axes['num_pages']}"
        )
    axes["num_pages"] = used


def _check_form(spec: TensorSpec, value: torch.Tensor, axes: dict[str, int], where: str) -> None:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype != str(spec.dtype):
        raise InputError(f"{where} is {dtype}, the definition says {spec.dtype}")
    wanted = [axes.get(axis) for axis in spec.shape or ()]
    if len(wanted) != value.dim() or any(w is not None and w != s for w, s in zip(wanted, value.shape, strict=True)):
        raise InputError(f"{where} has the shape {tuple(value.shape)}, workload and definition say {wanted}")


def same_rows(definition: Definition, inputs: Sequence[Any], groups: int) -> list[Any]:
    """The inputs with only ``groups`` different rows along the batch, repeated: many draws from few distributions."""
    import torch

    result = []
    for value, spec in zip(inputs, definition.inputs.values(), strict=True):
        if isinstance(value, torch.Tensor) and spec.shape and spec.shape[0] == "batch_size":
            value = value[torch.arange(value.shape[0]) % groups].contiguous()
        result.append(value)
    return result
