"""Case: one workload made ready: fresh inputs, what is right for them, and the blobs that carry them to the child."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from fib_plugin import judge, ops
from fib_plugin.bench.bandwidth import cache_bytes
from fib_plugin.bench.blob import Blob, changed, fill, plan, poison
from fib_plugin.bench.cache import MANY_SETS, MANY_SETS_OF_A_GPU, Cache
from fib_plugin.bench.inputs import InputError, InputMaker, fresh_seed, same_rows
from fib_plugin.bench.referee import Referee
from fib_plugin.bench.sets import TimingSets, varied
from fib_plugin.bench.wire import Layout, TensorArg
from fib_plugin.schema import Definition, SafetensorsInput, ScalarInput, Workload

_SLOW_REFERENCE_S = 0.4
_GROUPS = 4
_DRAWS = 2048


@dataclass(slots=True)
class Trial:
    """One call: inputs, expected outputs, and the blob that holds the inputs and takes the outputs."""

    name: str
    inputs: list[Any]
    expected: list[Any]
    blob: Blob
    layout: Layout

    def arm(self) -> None:
        """Poison the outputs, so that nothing an earlier call left is taken for an answer."""
        poison(self.blob, self.layout)

    def outputs(self) -> list[Any]:
        return [self.blob.tensor(place).clone() for place in self.layout.outputs]

    def changed_inputs(self, definition: Definition, allowed: Sequence[str]) -> list[str]:
        """Names of inputs that were written to and may not be."""
        names = list(definition.inputs)
        return [names[i] for i in changed(self.blob, self.layout, self.inputs) if names[i] not in allowed]

    def written_amiss(self, definition: Definition, config: ops.EvaluationConfig) -> str:
        """Which inputs that may be written hold neither what they held nor what the definition returns; in words.

        An engine's op that works in place leaves one of its outputs there; other values would be lost or in the way.
        """
        names = list(definition.inputs)
        for index in changed(self.blob, self.layout, self.inputs):
            place = self.layout.inputs[index]
            if names[index] not in config.mutates or not isinstance(place, TensorArg):
                continue
            found = self.blob.tensor(place)
            alike = [one for one in self.expected if (one.shape, one.dtype) == (found.shape, found.dtype)]
            if not any(_agree(definition, found, one, config) for one in alike):
                return f"input {names[index]} was overwritten with what is none of the outputs"
        return ""

    def restore(self) -> None:
        """Write the inputs again, after a call that changed them."""
        fill(self.blob, self.layout, self.inputs)


def _agree(definition: Definition, found: Any, wanted: Any, config: ops.EvaluationConfig) -> bool:
    return judge.outputs(definition, [found], [wanted], config.tolerance).passed


@dataclass(slots=True)
class DrawSet:
    """Inputs with few distinct rows, and room for many draws from them."""

    name: str
    inputs: list[Any]
    blob: Blob
    layout: Layout
    groups: int
    calls: int
    least: int


@dataclass(slots=True)
class Case:
    """A workload of a definition, ready to be run by any of its solutions."""

    definition: Definition
    workload: Workload
    seeds: tuple[int, int]
    forms: list[tuple[Any, tuple[int, ...]]]
    trials: list[Trial]
    again: Trial
    timing: TimingSets
    referee: Referee
    reference_ms: float
    config: ops.EvaluationConfig
    cache: Cache
    #: For samplers only.
    draws: DrawSet | None = None
    #: As ``timing``, for the displaced op: what a solution may write to is not what the op is timed on.
    displaced_timing: TimingSets | None = None

    def right(self, inputs: Sequence[Any]) -> list[Any]:
        """What is right for inputs of this workload."""
        return self.referee(inputs, self.forms)[0]

    def unseen(self) -> Trial:
        """The first trial, with contents in its memory that no call has had: no answer to them lies about anywhere.

        The first trial's `restore` brings its own contents back.
        """
        self.timing.touch([0], np.random.default_rng())
        inputs = [value.clone() if hasattr(value, "clone") else value for value in self.timing.inputs[0]]
        trial = dataclasses.replace(self.trials[0], inputs=inputs, expected=self.right(inputs))
        trial.restore()
        return trial

    def blobs(self, displaced: bool) -> dict[str, Blob]:
        """All blobs that a child needs for this case, by name: a solution's, or the displaced op's."""
        found = {trial.name: trial.blob for trial in (*self.trials, self.again)}
        timing = self.sets(displaced)
        found[timing.name] = timing.blob
        if self.draws is not None:
            found[self.draws.name] = self.draws.blob
        return found

    def sets(self, displaced: bool) -> TimingSets:
        """The input sets that a solution is timed on, or those of the displaced op."""
        if not displaced:
            return self.timing
        if self.displaced_timing is None:
            name = f"{self.workload.uuid}/displaced"
            self.displaced_timing = self.timing.twin(name)
        return self.displaced_timing

    def close(self) -> None:
        for blob in self.blobs(displaced=False).values():
            blob.close()
        for sets in (self.timing, self.displaced_timing):
            if sets is not None:
                sets.close()


def prepare(
    definition: Definition,
    workload: Workload,
    maker: InputMaker,
    referee: Referee,
    config: ops.EvaluationConfig,
    device: str = "cpu",
    warm: bool = False,
) -> Case:
    """Make a case, to be timed on ``device``, with a ``warm`` cache if that is asked for.

    Raises:
        InputError: the workload cannot be made into inputs.
        BrokenReference: the definition's reference fails on them.
        ServerDied: nothing can be run here.
    """
    import torch

    seed = fresh_seed()
    forms = _output_forms(definition, workload)
    seconds: list[float] = []

    all_saved = all(isinstance(workload.inputs.get(name), SafetensorsInput | ScalarInput) for name in definition.inputs)

    def trial(index: int) -> Trial:
        inputs = maker.make(definition, workload, seed + index)
        if index and all_saved:  # or an answer to the first trial's would be right in all
            inputs = varied(inputs, np.random.default_rng((maker.seed, seed + index)))
        expected, took = referee(inputs, forms)
        seconds.append(took)
        layout = plan(inputs, forms)
        blob = Blob(layout.size)
        fill(blob, layout, inputs)
        return Trial(f"{workload.uuid}/{index}", inputs, expected, blob, layout)

    trials = [trial(0)]
    if seconds[0] < _SLOW_REFERENCE_S:
        trials.append(trial(1))
    again = trial(2)
    if sum(seconds) < 0.02:  # the first call pays for what torch sets up
        seconds = [referee(again.inputs, forms)[1] for _ in range(5)]
    size = sum(v.numel() * v.element_size() for v in again.inputs if isinstance(v, torch.Tensor))
    # On a GPU, what plans for its index lists may hold a workspace of hundreds of MB for each set.
    plans = any(name.endswith("indptr") for name in definition.inputs)
    many = MANY_SETS if device == "cpu" else 0 if plans else MANY_SETS_OF_A_GPU
    cache = Cache.of(size, cache_bytes(device), warm, many)
    sets = [maker.make(definition, workload, seed + 100 + index) for index in range(cache.sets)]
    return Case(
        definition=definition,
        workload=workload,
        seeds=(maker.seed, seed),
        forms=forms,
        trials=trials,
        again=again,
        timing=TimingSets(f"{workload.uuid}/sets", sets, forms),
        referee=referee,
        reference_ms=median(seconds) * 1e3,
        config=config,
        cache=cache,
        draws=_draw_set(definition, workload.uuid, again.inputs, forms) if config.evaluator == "sampling" else None,
    )


def _draw_set(definition: Definition, uuid: str, inputs: Sequence[Any], forms: Sequence[tuple[Any, Any]]) -> DrawSet:
    ((dtype, shape),) = forms
    batch = shape[0] if shape else 1
    groups = max(1, min(batch, _GROUPS))
    repeated = same_rows(definition, inputs, groups)
    per_call = max(1, batch // groups)
    calls, least = -(-_DRAWS // per_call), -(-64 // per_call)
    layout = plan(repeated, [(dtype, (calls, *shape))])
    blob = Blob(layout.size)
    fill(blob, layout, repeated)
    return DrawSet(f"{uuid}/draws", repeated, blob, layout, groups, calls, least)


def _output_forms(definition: Definition, workload: Workload) -> list[tuple[Any, tuple[int, ...]]]:
    import torch

    try:
        shapes = definition.output_shapes(workload.axes)
    except ValueError as error:
        raise InputError(f"workload {workload.uuid}: {error} (capture it again, or remove its line)") from error
    return [
        (getattr(torch, str(spec.dtype)), shape or ())
        for spec, shape in zip(definition.outputs.values(), shapes, strict=True)
    ]
