"""Under which names a model's tensors are written: those that its checkpoints have.

Programs that serve models know the names of published checkpoints, which are not always those
of transformers' classes (``language_model.model.layers`` and ``model.language_model.layers``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from autoround.model.blocks import Matrix
from autoround.model.convert import ConvertedSource
from autoround.model.experts import ExpertTensor

#: Stands for an expert's number in the name of its matrix.
NUMBER = "{}"
#: Conversions that put matrices of experts together row by row, as they are cut apart here.
_STACKING = (["MergeModulelist"], ["MergeModulelist", "Concatenate"])


class Names(Protocol):
    """How a model's tensors are called in its checkpoints."""

    def tensor(self, name: str) -> str:
        """Return the checkpoints' name of one of the model's tensors."""

    def experts(self, tensor: ExpertTensor) -> tuple[str, ...]:
        """Return the modules that hold a stacked weight's parts, ``{}`` for the expert.

        Empty where checkpoints stack it as well.
        """

    def beside(self, tensor: ExpertTensor) -> str:
        """Return the checkpoints' name of a stacked weight, which names of parts begin as."""


def expert_files(names: Names, tensor: ExpertTensor) -> tuple[str, ...]:
    """Return the modules that a stacked weight is written as, ``{}`` for the expert."""
    return names.experts(tensor) or default_experts(tensor, names.beside(tensor))


def files_of(names: Names, m: Matrix, stacked: Mapping[str, ExpertTensor]) -> tuple[str, ...]:
    """Return the modules that a matrix is written as; none where it is its own name.

    stacked: the stacked weights of the model, by name.
    """
    if m.experts:
        return expert_files(names, stacked[m.name])
    tensor = names.tensor(f"{m.name}.weight")
    file = tensor.removesuffix(".weight")
    # A tensor that is no module's weight in the checkpoints has no place for packed parts there.
    return () if file in (m.name, tensor) else (file,)


class CheckpointNames:
    """Names as the files have them that a model was opened from."""

    def __init__(self, source: ConvertedSource) -> None:
        self._source = source

    def tensor(self, name: str) -> str:
        """Return the files' name of one of the model's tensors."""
        origin = self._source.origin(name)
        # What was made of several tensors, or another shape, keeps the name of its class; so
        # does a bare decoder's, which is written as the whole model.
        if origin is None or origin.rule is not None or origin.prefixed:
            return name
        return origin.keys[0][1]

    def experts(self, tensor: ExpertTensor) -> tuple[str, ...]:
        """Return the modules that hold a stacked weight's parts, ``{}`` for the expert."""
        origin = self._source.origin(tensor.name)
        if origin is None:
            return ()
        if isinstance(origin.rule, ExpertTensor):
            # Written here before: the part is the key's last name but one.
            by_part = [
                [key for _, key in origin.keys if key.endswith(f".{part}.weight")]
                for part in tensor.parts
            ]
            return tuple(filter(None, map(template, by_part)))
        operations = [type(op).__name__ for op in getattr(origin.rule, "operations", ())]
        patterns = list(getattr(origin.rule, "source_patterns", ()))
        if operations in _STACKING and len(patterns) == len(tensor.parts):
            every = [[key for found, key in origin.keys if found == p] for p in patterns]
            found = [template(keys) for keys in every]
            if all(found) and {len(keys) for keys in every} == {tensor.count}:
                return tuple(found)
        return ()

    def beside(self, tensor: ExpertTensor) -> str:
        """Return the checkpoints' name of a stacked weight, which names of parts begin as."""
        origin = self._source.origin(tensor.name)
        return tensor.name if origin is None else origin.keys[0][1]


class SavedNames:
    """Names as transformers would save a model that is in memory."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._renamings, self._converters = _reversed_rules(model)

    def tensor(self, name: str) -> str:
        """Return the name a tensor would be saved under."""
        for rule in self._renamings:
            name = rule.rename_source_key(name)[0]
        return name

    def experts(self, tensor: ExpertTensor) -> tuple[str, ...]:
        """Return the modules that hold a stacked weight's parts, ``{}`` for the expert."""
        for rule in self._converters:
            first, pattern = rule.rename_source_key(tensor.name)
            if pattern is None:
                continue
            rows, columns = tensor.shape
            empty = torch.empty((tensor.count, rows, columns), device="meta")
            own = copy.deepcopy(rule)
            own.add_tensor(first, tensor.name, pattern, empty)
            try:
                made = own.convert(first, model=self._model, config=self._model.config)
            except (ValueError, KeyError, RuntimeError, AttributeError, StopIteration):
                break
            names = [self.tensor(name) for name in made]
            count = len(tensor.parts)
            if tensor.count > 1 and len(names) == count * tensor.count:
                each = [names[i * tensor.count : (i + 1) * tensor.count] for i in range(count)]
                found = [template(keys) for keys in each]
                if all(found):
                    return tuple(found)
            break
        return ()

    def beside(self, tensor: ExpertTensor) -> str:
        """Return the checkpoints' name of a stacked weight, which names of parts begin as."""
        return self.tensor(tensor.name)


def _reversed_rules(model: nn.Module) -> tuple[list[Any], list[Any]]:
    """Return transformers' rules for saving a model, as it would run them itself."""
    loaded: Any = model
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import PrefixChange, WeightConverter, WeightRenaming

        every = getattr(model, "_weight_conversions", None)
        if every is None:
            loading = get_model_conversion_mapping(loaded, add_legacy=False)
            every = [rule for rule in loading if not isinstance(rule, PrefixChange)]
        rules = [rule.reverse_transform() for rule in every[::-1]]
    except (ImportError, AttributeError, ValueError):
        return [], []
    return (
        [rule for rule in rules if isinstance(rule, WeightRenaming)],
        [rule for rule in rules if isinstance(rule, WeightConverter)],
    )


def default_experts(tensor: ExpertTensor, stored: str) -> tuple[str, ...]:
    """Name the parts of a stacked weight whose checkpoint stacks it too.

    stored: the checkpoint's name of it.
    """
    own = tensor.name.rpartition(".")[2]
    # A checkpoint that calls it otherwise has no place for experts by number: the class has.
    base = stored if stored.rpartition(".")[2] == own else tensor.name
    experts = base.rpartition(".")[0]
    return tuple(f"{experts}.{NUMBER}.{part}" for part in tensor.parts)


def template(keys: Sequence[str]) -> str:
    """Return the module that keys have in common, ``{}`` for the expert; empty if there is none.

    keys: names of one matrix of each expert, in the order of the experts.
    """
    if len(keys) < 2:
        return ""
    last = keys[-1].split(".")
    other = keys[0].split(".")
    differing = [i for i, pair in enumerate(zip(other, last, strict=False)) if len(set(pair)) > 1]
    if len(last) != len(other) or len(differing) != 1 or last[-1] != "weight":
        return ""
    last[differing[0]] = NUMBER
    found = ".".join(last)
    if any(found.replace(NUMBER, str(i)) != key for i, key in enumerate(keys)):
        return ""
    return found.removesuffix(".weight")
