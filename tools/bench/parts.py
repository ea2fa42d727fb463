"""The parts of a run and the functions that do them, watched from outside while a context lasts.

The bench's clock (phases.py) and its counter (launches.py) share this table. A function that is
renamed makes :func:`watch` fail: a part is never missed in silence.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple, Protocol

#: What is done in none of the parts.
OTHER = "other"


class Part(NamedTuple):
    """A part of a run. phase: what it belongs to. place: module:function that does it."""

    name: str
    phase: str
    place: str


#: A part inside of another one is not counted in that: times and counts are of a part alone.
PARTS = (
    Part("read", "load", "autoround.session.prefetch:BlockPrefetcher.next"),
    Part("read ahead", "load", "autoround.session.prefetch:BlockPrefetcher.prefetch"),
    Part("place", "load", "autoround.tuning.block:load_block"),
    Part("forward", "forward", "autoround.tuning.block:BlockTuner._advance"),
    Part("products of inputs", "hessian", "autoround.model.importance:Importance.add"),
    Part("inputs of experts", "hessian", "autoround.model.importance:observe_experts"),
    Part("whole matrix", "hessian", "autoround.model.importance:Importance.hessian"),
    Part("factor", "hessian", "autoround.tuning.rounding_init:inverse_choleskys"),
    Part("columns", "hessian", "autoround.tuning.rounding_init:stacked_gptq_offsets"),
    Part("groups", "search", "autoround.tuning.block:make_target"),
    Part("search", "search", "autoround.tuning.targets:search_expert_grids"),
    Part("steps", "steps", "autoround.tuning.reconstruct:tune"),
    Part("scores", "scores", "autoround.core.validation:Validation.score"),
    Part("codes", "pack", "autoround.tuning.reconstruct:quantize_targets"),
    Part("dequantize", "pack", "autoround.tuning.block:dequantize"),
    Part("packed", "pack", "autoround.session.packed_weights:pack_weights"),
    Part("record", "pack", "autoround.resume.journal:PassJournal.begin_commit"),
    Part("record's file", "pack", "autoround.resume.journal:write_record"),
    Part("layers", "pack", "autoround.export.safetensors_writer:SafetensorsWriter._pack_layers"),
    Part("kept", "pack", "autoround.export.safetensors_writer:SafetensorsWriter._kept_in_files"),
    Part("shards", "pack", "autoround.export.shards:ShardWriter.add"),
    Part("errors of layers", "errors", "autoround.tuning.block:layer_errors"),
    Part("figures", "errors", "autoround.tuning.block:BlockTuner._read_result"),
    Part("rehearsal", "check", "autoround.export.verify:ReadBackCheck.add"),
    Part("files", "check", "autoround.export.safetensors_writer:SafetensorsWriter.complete"),
    Part("streams", "streams", "autoround.session.activations:ActivationStreams.save"),
)


class Observer(Protocol):
    """What is told when a part begins and ends, in the thread that does it."""

    def enter(self, part: Part) -> None:
        """Note that a part begins."""

    def leave(self, part: Part) -> None:
        """Note that it ended, or failed."""


@contextmanager
def watch(observer: Observer, parts: tuple[Part, ...] = PARTS) -> Iterator[None]:
    """Tell an observer of the parts of a run while the context lasts.

    Raises:
        AttributeError: a function of the table is no more.
    """
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for part in parts:
            holder, name = _place(part.place)
            before = vars(holder)[name]
            replaced.append((holder, name, before))
            setattr(holder, name, _wrap(before, part, observer))
        yield
    finally:
        for holder, name, before in reversed(replaced):
            setattr(holder, name, before)


def _place(place: str) -> tuple[Any, str]:
    """Return what holds a function, and its name there."""
    module, _, path = place.partition(":")
    holder: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for each in classes:
        holder = getattr(holder, each)
    if name not in vars(holder):
        raise AttributeError(f"{place} is no more: name the function that does its work now")
    return holder, name


def _wrap(function: Callable[..., Any], part: Part, observer: Observer) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        observer.enter(part)
        try:
            return function(*args, **kwargs)
        finally:
            observer.leave(part)

    return wrapper
