"""apply(), enable_apply(), enable_tracing() and their counterparts, named as FlashInfer-Bench users know them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from fib_plugin import plugin
from fib_plugin.build.runnable import output_plan, torch_dtype
from fib_plugin.capture.config import CaptureConfig
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition
from fib_plugin.settings import Settings, load

logger = logging.getLogger("fib_plugin")


class ApplyError(RuntimeError):
    """A call names a definition that does not exist, or cannot run at all because there is no fallback."""


@dataclass(slots=True)
class _Named:
    """A definition as ``apply()`` meets it: its site, and how the key of a call is read off its inputs."""

    site: Site
    definition: Definition
    num_inputs: int
    names: tuple[str, ...]
    key: Callable[..., Hashable]


class Enabled:
    """Returned by ``enable_apply`` and ``enable_tracing``; as a context manager it puts the earlier state back."""

    def __init__(self, earlier: tuple[Settings, bool, bool, CaptureConfig] | None, runtime: Runtime) -> None:
        self._earlier = earlier
        self._restored = False
        self.runtime = runtime

    def __enter__(self) -> Enabled:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.restore()

    def restore(self) -> None:
        """Puts back what was active before; once."""
        if self._restored:
            return
        self._restored = True
        plugin.deactivate()
        if self._earlier is not None:
            settings, apply, tracing, capture = self._earlier
            plugin.activate(settings, apply=apply, tracing=tracing, capture=capture)


def _enable(
    dataset_path: str | Path | None, *, apply: bool, tracing: bool, config: CaptureConfig | None = None
) -> Enabled:
    current = plugin.active()
    earlier = None
    settings = load()
    if current is not None:
        runtime = current.runtime
        earlier = (runtime.settings, runtime.apply, runtime.tracing, runtime.capture)
        config = config or (runtime.capture if runtime.tracing else None)
        settings = runtime.settings
        apply, tracing = apply or runtime.apply, tracing or runtime.tracing
    if dataset_path is not None:
        settings = settings.model_copy(update={"dataset_path": Path(dataset_path).expanduser().absolute()})
    return Enabled(earlier, plugin.activate(settings, apply=apply, tracing=tracing, capture=config).runtime)


def _disable(*, apply: bool, tracing: bool) -> None:
    current = plugin.active()
    if current is None:
        return
    settings, capture = current.runtime.settings, current.runtime.capture
    plugin.deactivate()
    if apply or tracing:
        plugin.activate(settings, apply=apply, tracing=tracing, capture=capture)


def enable_apply(dataset_path: str | Path | None = None) -> Enabled:
    """Substitutes proven solutions of the dataset from now on; tracing stays as it is.

    Args:
        dataset_path: a FlashInfer Trace dataset; default FIB_DATASET_PATH.

    Example:
        >>> with enable_apply("dataset"):
        ...     apply("gemm_n4096_k4096", args=(a, b), fallback=lambda a, b: a @ b.T)
    """
    return _enable(dataset_path, apply=True, tracing=False)


def disable_apply() -> None:
    """Substitutes no more; safe to call when nothing is enabled."""
    current = plugin.active()
    _disable(apply=False, tracing=current is not None and current.runtime.tracing)


def enable_tracing(dataset_path: str | Path | None = None, config: CaptureConfig | None = None) -> Enabled:
    """Writes live workloads into the dataset from now on; apply stays as it is.

    Args:
        config: what to dump and to keep; default FIB_CAPTURE_CONFIG.
    """
    return _enable(dataset_path, apply=False, tracing=True, config=config)


def disable_tracing() -> None:
    """Records no more and flushes what was recorded; safe to call when nothing is enabled."""
    current = plugin.active()
    _disable(tracing=False, apply=current is not None and current.runtime.apply)


def apply(
    def_name_or_resolver: str | Callable[..., str],
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    fallback: Callable[..., Any] | None = None,
) -> Any:
    """Runs the best proven solution of a definition, else ``fallback``.

    With only the first argument it is a decorator; the decorated function is the fallback.

    Args:
        def_name_or_resolver: a definition's name, or a function of the arguments that returns one.
        args: the definition's inputs in order, and after them its outputs for destination passing.
        kwargs: inputs and outputs by name.
        fallback: what runs when nothing is proven; called with the same arguments.

    Returns:
        The output (a tuple when there are several); None with destination passing.

    Raises:
        ApplyError: nothing to substitute and no fallback, or a wrong argument.

    Example:
        >>> @apply(lambda a, b: f"gemm_n{b.shape[0]}_k{b.shape[1]}")
        ... def gemm(a, b):
        ...     return a @ b.T
    """
    if args is None and kwargs is None and fallback is None:

        def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                return _dispatch(def_name_or_resolver, args, kwargs, function)

            return wrapped

        return decorator
    return _dispatch(def_name_or_resolver, args or (), kwargs or {}, fallback)


def _dispatch(
    resolver: str | Callable[..., str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    fallback: Callable[..., Any] | None,
) -> Any:
    current = plugin.active()
    name, state = resolver, "nothing is enabled"
    if current is not None:
        name = resolver if isinstance(resolver, str) else resolver(*args, **kwargs)
        named = current.runtime.named.get(name)
        if named is None:
            named = _named(current.runtime, name, args, kwargs, fallback)
        if named is not None and not kwargs and len(args) == named.num_inputs:
            result = named.site.attempt(named.key(*args), args)
            if result is not None:
                return result
            state = "no proven solution"
        elif named is not None:
            values = _ordered(named, args, kwargs)
            inputs = values[: named.num_inputs]
            result = named.site.attempt(named.key(*inputs), inputs)
            if result is not None:
                return _deliver(result, values[named.num_inputs :])
            state = "no proven solution"
        else:
            state = "the dataset has no such definition"
    if fallback is None:
        raise ApplyError(f"apply({name!r}): {state} and no fallback was given; pass fallback=")
    return fallback(*args, **kwargs)


def _named(
    runtime: Runtime,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    fallback: Callable[..., Any] | None,
) -> _Named | None:
    definition = runtime.catalog.definition(name)
    if definition is None:
        runtime.decline("api", Reason.NO_DEFINITION)
        return None
    names = (*definition.inputs, *definition.outputs)
    original = None
    if fallback is not None:
        into = len(args) + len(kwargs) > len(definition.inputs)
        original = Original(_as_original(definition, fallback, len(args), into))
    site = runtime.site("api", definition, original=original)
    made = _Named(site, definition, len(definition.inputs), names, _key(definition))
    runtime.named[name] = made
    return made


def _as_original(
    definition: Definition, fallback: Callable[..., Any], positional: int, into: bool
) -> Callable[..., Any]:
    """The fallback on the definition's inputs, called in the way the first caller calls it."""
    names = (*definition.inputs, *definition.outputs)

    def original(*inputs: Any) -> Any:
        values = inputs
        outputs = ()
        if into:
            outputs = _empty_outputs(definition, inputs)
            values = (*inputs, *outputs)
        by_name = dict(zip(names[positional:], values[positional:], strict=False))
        result = fallback(*values[:positional], **by_name)
        return outputs if into else tuple(result) if isinstance(result, list) else result

    return original


def _empty_outputs(definition: Definition, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    import torch

    device = next(value.device for value in inputs if hasattr(value, "device"))
    return tuple(
        torch.empty(
            [dim if isinstance(dim, int) else inputs[dim[0]].shape[dim[1]] for dim in dims],
            dtype=torch_dtype(spec.dtype),
            device=device,
        )
        for dims, spec in zip(output_plan(definition), definition.outputs.values(), strict=True)
    )


def _key(definition: Definition) -> Callable[..., Hashable]:
    """Reads shapes and dtypes of the tensors: everything that the choice, or the definition itself, depends on."""
    names = [f"a{index}" for index in range(len(definition.inputs))]
    tensors = [name for name, spec in zip(names, definition.inputs.values(), strict=True) if spec.shape is not None]
    parts = "".join(f"{name}.shape, {name}.dtype, " for name in tensors)
    careful = "".join(f"getattr({name}, 'shape', None), getattr({name}, 'dtype', None), " for name in tensors)
    scope: dict[str, Any] = {}
    # Straight-line code, since a loop over the inputs costs more than the rest of a call.
    exec(
        f"def key({', '.join(names)}):\n"
        f"    try:\n        return ({parts})\n"
        f"    except AttributeError:\n        return ({careful})\n",
        scope,
    )
    key: Callable[..., Hashable] = scope["key"]
    return key


def _ordered(named: _Named, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    values = args
    if kwargs:
        # The inputs, and after them all outputs or none: a gap would move each later argument to another's place.
        into = any(name in kwargs for name in named.names[named.num_inputs :])
        wanted = named.names[len(args) :] if into else named.names[len(args) : named.num_inputs]
        unknown = [name for name in kwargs if name not in wanted]
        missing = [name for name in wanted if name not in kwargs]
        if unknown or missing:
            problem = f"unexpected {', '.join(unknown)}" if unknown else f"{', '.join(missing)} not given"
            raise ApplyError(f"apply({named.definition.name!r}): {problem}; it takes {', '.join(named.names)}")
        values = (*args, *(kwargs[name] for name in wanted))
    if len(values) not in (named.num_inputs, len(named.names)):
        raise ApplyError(
            f"apply({named.definition.name!r}): {len(values)} arguments; it takes {', '.join(named.names)}: "
            f"the {named.num_inputs} inputs, or them and all outputs"
        )
    return values


def _deliver(result: Any, outputs: tuple[Any, ...]) -> Any:
    if not outputs:
        return result
    for out, value in zip(outputs, result if isinstance(result, tuple) else (result,), strict=True):
        out.copy_(value)
    return None
