"""A checkpoint under the names and shapes of its model class, converted a few tensors at a time.

transformers renames, stacks and turns tensors as it loads a model, by rules that each model
class brings along. The same rules are run here for the tensors that are asked for, and on
meta tensors for their shapes, so a model is never in memory as a whole.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoround.core.dtypes import Header
from autoround.errors import ModelError
from autoround.model.blocks import is_transposed
from autoround.model.experts import PART, ExpertTensor, expert_tensors
from autoround.model.files.packed import UnpackedSource
from autoround.model.files.source import Headers, WeightSource


class Rules(NamedTuple):
    """transformers' rules for one model: renamings, and conversions by their source patterns."""

    renamings: list[Any]
    converters: list[Any]
    by_pattern: dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """What becomes one tensor of the model, or several that are made together.

    keys: (pattern, key) of the checkpoint's tensors, in order. rule: transformers' conversion,
    a stacked weight to fill from its parts, or None where the tensor stays as it is.
    prefixed: the name came about by the base model's prefix, which the files lack or have
    beyond the class.
    """

    keys: tuple[tuple[str, str], ...]
    rule: Any = None
    prefixed: bool = False


class ConvertedSource:
    """The tensors of a checkpoint as the model class has them.

    Those that the class does not know keep the checkpoint's names; ``unknown`` lists them.
    """

    def __init__(self, source: WeightSource, model: nn.Module) -> None:
        """Match every tensor; no data is read.

        Raises:
            ModelError: the files do not fit the rules of the model class.
        """
        self._source, self._model = source, model
        self._origins, unknown = match(model, source.headers())
        self._of: dict[str, str] = {}
        self._headers: dict[str, Header] = {}
        for first, headers in self._convert_headers():
            self._of.update(dict.fromkeys(headers, first))
            self._headers.update(headers)
        self.unknown = tuple(name for name in unknown if name not in self._headers)
        self._headers.update({name: source.headers()[name] for name in self.unknown})

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor."""
        return self._headers

    def origin(self, name: str) -> Origin | None:
        """Return what a tensor of the model is made of; None for one that is not known."""
        return self._origins.get(self._of.get(name, ""))

    def plain_names(self) -> dict[str, str]:
        """Return the checkpoint's name of each tensor of the model that is one of its tensors."""
        plain = {name: o.keys[0][1] for name, o in self._origins.items() if o.rule is None}
        return {name: key for name, key in plain.items() if self._of.get(name) == name}

    def conversions(self) -> dict[str, tuple[str, ...]]:
        """Return what is not one tensor of the checkpoint as it stands.

        Returns:
            The checkpoint's names of the tensors it is made of, by the first tensor of the model
            that it becomes.
        """
        return {
            name: tuple(key for _, key in origin.keys)
            for name, origin in self._origins.items()
            if origin.rule is not None
        }

    def made_with(self, name: str) -> list[str]:
        """Return all tensors of the model that come about together with one."""
        first = self._of.get(name)
        return [other for other, of in self._of.items() if of == first]

    def stored_names(self, names: Iterable[str]) -> list[str]:
        """Return the names of the files' tensors that some tensors are made of."""
        keys: list[str] = []
        for name in names:
            origin = self.origin(name)
            keys += [name] if origin is None else [key for _, key in origin.keys]
        if isinstance(self._source, UnpackedSource):
            return self._source.stored_names(keys)
        return keys

    def files_of(self, modules: Iterable[str]) -> list[str]:
        """Return the files' names of some of the model's modules, by their weights."""
        origins = (self.origin(f"{name}.weight") for name in modules)
        return [o.keys[0][1].removesuffix(".weight") for o in origins if o is not None]

    def transposed_files(self) -> set[str]:
        """Return the files' names of the layers that the model stores as [in, out]."""
        transposed = (name for name, module in self._model.named_modules() if is_transposed(module))
        return set(self.files_of(transposed))

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors onto the CPU in their stored dtype, converted."""
        wanted = list(names)
        found = self._source.read([name for name in wanted if name not in self._of])
        for first in dict.fromkeys(self._of[name] for name in wanted if name in self._of):
            origin = self._origins[first]
            tensors = self._source.read([key for _, key in origin.keys])
            found.update(self._converted(first, origin, tensors))
        return {name: found[name] for name in wanted}

    def _convert_headers(self) -> Iterator[tuple[str, dict[str, Header]]]:
        """Yield the headers of what each origin becomes, with the first tensor's name."""
        headers, state = self._source.headers(), self._model.state_dict()
        # Torch takes long to stack some hundreds of experts, even on meta: once for equal layers.
        alike: dict[Any, Header] = {}
        for first, origin in self._origins.items():
            stored = {key: headers[key] for _, key in origin.keys}
            if origin.rule is None:
                yield first, {first: stored[origin.keys[0][1]]}
                continue
            parts = tuple((pattern, *headers[key]) for pattern, key in origin.keys)
            kind = (id(origin.rule), parts, state[first].shape)
            if kind in alike:
                yield first, {first: alike[kind]}
                continue
            empty = {k: torch.empty(s, dtype=d, device="meta") for k, (s, d) in stored.items()}
            tensors = self._converted(first, origin, empty)
            converted = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
            if converted.keys() == {first}:
                alike[kind] = converted[first]
            yield first, converted

    def _converted(
        self, first: str, origin: Origin, tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if origin.rule is None:
            return {first: tensors[origin.keys[0][1]]}
        if isinstance(origin.rule, ExpertTensor):
            return {first: _merged(origin.rule, tensors)}
        rule = copy.deepcopy(origin.rule)
        for pattern, key in origin.keys:
            rule.add_tensor(first, key, pattern, tensors[key])
        try:
            made = rule.convert(first, model=self._model, config=self._model.config)
        except Exception as error:  # rules of other people's models fail in many ways
            shown = origin.keys[0][1] + (" and others" if len(origin.keys) > 1 else "")
            raise ModelError(f"tensor {shown} cannot become {first}: {error}") from error
        return {n: t[0] if isinstance(t, list) else t for n, t in made.items()}


def _merged(rule: ExpertTensor, tensors: Mapping[str, Tensor]) -> Tensor:
    matrices = {}
    for key, tensor in tensors.items():
        found = PART.match(key)
        assert found is not None
        matrices[rule.parts.index(found["part"]), int(found["expert"])] = tensor
    try:
        return rule.merge(matrices)
    except (KeyError, RuntimeError) as error:
        reason = error.args[0] if error.args else error
        raise ModelError(f"the experts of {rule.name} are not all there: {reason}") from error


def rules_of(model: nn.Module) -> Rules:
    """Return transformers' rules for loading a model; none where it has no such thing."""
    loaded: Any = model
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        every = get_model_conversion_mapping(loaded)
    except (ImportError, AttributeError):
        return Rules([], [], {})
    converters = [rule for rule in every if isinstance(rule, WeightConverter)]
    return Rules(
        [rule for rule in every if isinstance(rule, WeightRenaming)],
        converters,
        {pattern: rule for rule in converters for pattern in rule.source_patterns},
    )


def match(model: nn.Module, keys: Iterable[str]) -> tuple[dict[str, Origin], list[str]]:
    """Tell what becomes of every tensor of a checkpoint.

    Returns the origins by the first tensor they become, and the keys the model does not know.
    """
    rules = rules_of(model)
    known = dict.fromkeys(model.state_dict())
    stacked = expert_tensors(model)
    prefix = str(getattr(model, "base_model_prefix", ""))
    found: dict[str, list[tuple[str, str]]] = {}
    made_by: dict[str, Any] = {}
    prefixed: set[str] = set()
    unknown = []
    for key in sorted(keys, key=natural):
        own, pattern = _renamed(key, rules)
        name = _with_prefix(own, prefix, known)
        rule = None if pattern is None else rules.by_pattern[pattern]
        if name not in known and _with_prefix(key, prefix, known) in known:
            own, pattern, rule = key, None, None
            name = _with_prefix(key, prefix, known)
        if name not in known:
            renamed = _renamed(key, rules._replace(converters=[]))[0]
            part = _own_part(renamed, stacked) or _own_part(f"{prefix}.{renamed}", stacked)
            if part is None:
                unknown.append(key)
                continue
            name, pattern, rule = part.name, "part", part
        if rule is None and name in found:
            unknown.append(key)  # two of the files' tensors for one of the model's
            continue
        found.setdefault(name, []).append((pattern or key, key))
        made_by.setdefault(name, rule)
        if own == key != name:
            prefixed.add(name)
    made = {n: Origin(tuple(p), made_by[n], n in prefixed) for n, p in found.items()}
    return made, unknown


def _own_part(name: str, stacked: Mapping[str, ExpertTensor]) -> ExpertTensor | None:
    """Return the stacked weight that a matrix named by our own custom is a part of."""
    found = PART.match(name)
    if found is None:
        return None
    return next(
        (
            tensor
            for tensor in stacked.values()
            if tensor.name.rpartition(".")[0] == found["experts"] and found["part"] in tensor.parts
        ),
        None,
    )


def _renamed(key: str, rules: Rules) -> tuple[str, str | None]:
    """Return what the rules make of a name, and the pattern of the conversion among them."""
    name = key
    for rule in rules.renamings:
        name = rule.rename_source_key(name)[0]
    pattern = None
    for rule in rules.converters:
        name, pattern = rule.rename_source_key(name)
        if pattern is not None:
            break
    return name, pattern


def _with_prefix(name: str, prefix: str, known: Mapping[str, None]) -> str:
    """Put the base model's prefix before a name, or take it away, where only that is known."""
    if name in known or not prefix:
        return name
    without = name.removeprefix(prefix + ".")
    return next((n for n in (without, f"{prefix}.{name}") if n in known), name)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts names with their numbers in order: experts are stacked so."""
    return [
        (0, int(piece), "") if piece.isdigit() else (1, 0, piece)
        for piece in re.split(r"\.|(?<=\D)(?=\d+(?:\.|$))", name)
    ]
