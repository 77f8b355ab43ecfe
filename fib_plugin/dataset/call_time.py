"""CallTime: about how long one call of a definition takes, from measurements where there are any, else from its axes.

For shares of time in `stats` and `curate`; nothing is chosen by it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod

from fib_plugin.dataset.curation import Axes, KeyAxes
from fib_plugin.dataset.measurements import Measurement
from fib_plugin.schema import Definition, DType

MEASURED = "measured"
"""The engine's op at the nearest measured size."""
ESTIMATED = "estimated"
"""Bytes moved (and, for a plain matrix product, multiplications); comparable between definitions."""

_BITS = {DType.FLOAT32: 32, DType.INT64: 64, DType.INT32: 32, DType.FLOAT4_E2M1: 4}
_BITS |= dict.fromkeys((DType.FLOAT16, DType.BFLOAT16, DType.INT16), 16)
_OPERATIONS_A_BYTE = 200.0
"""How many operations a processor does while it moves a byte: of the order of today's accelerators."""

_INTEGERS = (DType.INT32, DType.INT64)


def key_axes(definition: Definition) -> KeyAxes:
    """The key axes of a definition whose op family is not known: all variable ones but the sizes of pools."""
    pools = _pools(definition)
    return KeyAxes(tuple(axis for axis in definition.var_axes if axis not in pools))


def work(definition: Definition) -> Callable[[Axes], float]:
    """Estimated work of a call in bytes: what is read and written, of a pool only as much as indices name."""
    tensors = [spec for spec in (*definition.inputs.values(), *definition.outputs.values()) if spec.shape is not None]
    pools, lists = _pools(definition), _index_axes(definition)
    constants = definition.const_axes
    product = _product_axes(definition)

    def estimate(axes: Axes) -> float:
        sizes = {**dict.fromkeys(definition.var_axes, 0), **axes, **constants}
        for pool in pools:
            sizes[pool] = min(sizes[pool], max(sizes[axis] for axis in lists))
        moved = sum(_BITS.get(spec.dtype, 8) / 8 * prod(sizes[axis] for axis in spec.shape or ()) for spec in tensors)
        operations = 2 * prod(sizes[axis] for axis in product) if product else 0
        return moved + operations / _OPERATIONS_A_BYTE

    return estimate


def _index_axes(definition: Definition) -> set[str]:
    """Variable axes of one-dimensional integer inputs: lists of indices and the bounds within them."""
    inputs = definition.inputs.values()
    single = {spec.shape[0] for spec in inputs if spec.dtype in _INTEGERS and spec.shape and len(spec.shape) == 1}
    return single & set(definition.var_axes)


def _pools(definition: Definition) -> set[str]:
    """Axes that only say how much there is to choose from: with a list of indices, those that reach no output."""
    lists = _index_axes(definition)
    outputs = {axis for spec in definition.outputs.values() for axis in spec.shape or ()}
    return set(definition.var_axes) - lists - outputs if lists else set()


def _product_axes(definition: Definition) -> set[str]:
    """The axes of a plain matrix product (two matrices in, one out, one axis summed over), else none."""
    shapes = [spec.shape for spec in (*definition.inputs.values(), *definition.outputs.values())]
    if [len(shape or ()) for shape in shapes] != [2, 2, 2]:
        return set()
    left, right, out = (set(shape or ()) for shape in shapes)
    return left | right if len(left & right - out) == 1 and out <= left | right else set()


class CallTime:
    """Times of the calls of all definitions, in ms where anything was measured, else in bytes of estimated work.

    When one hardware is to speak for all, it is the one with the most measurements. With measurements of some
    definitions only, the estimates of the others are scaled by the measured ones' ratio of time to work.
    """

    def __init__(
        self,
        definitions: Mapping[str, Definition],
        measurements: Iterable[Measurement],
        keys: Callable[[Definition], KeyAxes] = key_axes,
    ) -> None:
        self._keys = {name: keys(definition) for name, definition in definitions.items()}
        self._work = {name: work(definition) for name, definition in definitions.items()}
        self._measured = _baselines(measurements, definitions)
        taken = [(ms, self._work[name](dict(axes))) for name, times in self._measured.items() for axes, ms in times]
        total = sum(effort for _, effort in taken)
        self._scale = sum(ms for ms, _ in taken) / total if total else 1.0

    def source(self, definition: str) -> str:
        """MEASURED or ESTIMATED."""
        return MEASURED if definition in self._measured else ESTIMATED

    def of(self, definition: str, axes: Axes) -> float:
        """Time of one call: that of the nearest measured size (not scaled to this one), or the estimate."""
        times = self._measured.get(definition)
        if times is None:
            return self._work[definition](axes) * self._scale
        keys = self._keys[definition]
        return min(times, key=lambda entry: (keys.distance(dict(entry[0]), axes), entry[0]))[1]


def _baselines(
    measurements: Iterable[Measurement], definitions: Mapping[str, Definition]
) -> dict[str, Sequence[tuple[tuple[tuple[str, int], ...], float]]]:
    """Definition -> (axes, median ms of the engine's op) on the hardware with the most measurements."""
    usable = [one for one in measurements if one.baseline_ms is not None and one.definition in definitions]
    hosts = Counter(one.hardware for one in usable)
    if not hosts:
        return {}
    hardware = min(hosts, key=lambda name: (-hosts[name], name))
    times: dict[str, dict[tuple[tuple[str, int], ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in usable:
        if one.hardware == hardware and one.baseline_ms is not None:
            times[one.definition][tuple(sorted(one.axes.items()))].append(one.baseline_ms)
    return {
        name: [(axes, sorted(each)[(len(each) - 1) // 2]) for axes, each in sorted(sizes.items())]
        for name, sizes in times.items()
    }
