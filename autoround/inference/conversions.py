"""The names of a checkpoint's tensors, told to transformers in its own terms.

transformers renames and converts tensors by lists of rules, as it loads a model and as it saves
it. Ours stand in their place for a packed checkpoint: they say what :mod:`autoround.model.convert`
found, so that both ways of loading share one mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightConverter, WeightRenaming

#: Stands for the patterns that our rules do without.
_ANY = "autoround"


class KnownNames(WeightRenaming):
    """Renames tensors one by one where their names are known, others by transformers' rules."""

    def __init__(
        self, names: Mapping[str, str], *, stay: Iterable[str], others: Iterable[WeightRenaming]
    ) -> None:
        """Take the names.

        Args:
            names: the new name of each tensor.
            stay: names that are right already.
            others: rules for names that are not known.
        """
        super().__init__(_ANY, _ANY)
        self._names, self._stay, self._others = dict(names), frozenset(stay), tuple(others)
        self._was_used = True

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """Return the new name of a tensor."""
        if source_key in self._stay:
            return source_key, None
        if source_key in self._names:
            return self._names[source_key], None
        for rule in self._others:
            source_key = rule.rename_source_key(source_key)[0]
        return source_key, None

    def reverse_transform(self) -> KnownNames:
        """Return itself: it is made for one direction."""
        return self


class ReadByUs(WeightConverter):
    """Tensors of the model that are made of several, or unpacked: our own reader makes them.

    transformers hands each tensor of the files to it, and it takes none: what they become is read
    once all are there.
    """

    def __init__(
        self, becomes: Mapping[str, str], read: Callable[[str], Mapping[str, Tensor]]
    ) -> None:
        """Take the names.

        Args:
            becomes: the model's first tensor that a tensor of the files is a part of.
            read: reads that and all that come about with it, by the model's names.
        """
        super().__init__([_ANY], [_ANY], [None], force_cpu=True)  # type: ignore[list-item]
        self._becomes, self._read = becomes, read

    def __deepcopy__(self, memo: dict[int, Any]) -> ReadByUs:
        """Return one for another tensor; the names are shared."""
        return ReadByUs(self._becomes, self._read)

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """Return the tensor of the model that one of the files is a part of."""
        known = source_key in self._becomes
        return (self._becomes[source_key], _ANY) if known else (source_key, None)

    def add_tensor(self, *tensor: Any) -> None:
        """Take nothing."""

    def convert(
        self,
        layer_name: str,
        model: Any = None,
        config: Any = None,
        hf_quantizer: Any = None,
        loading_info: Any = None,
    ) -> dict[str, Tensor]:
        """Read what the tensors become."""
        return dict(self._read(layer_name))


class SavedAsIs(WeightConverter):
    """Tensors that no conversion is to touch as a model is saved."""

    def __init__(self, names: frozenset[str]) -> None:
        """names: of the tensors."""
        super().__init__([_ANY], [_ANY], [None])  # type: ignore[list-item]
        self._names = names
        self._was_used = True

    def __deepcopy__(self, memo: dict[int, Any]) -> SavedAsIs:
        """Return one for another tensor; the names are shared."""
        return SavedAsIs(self._names)

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """Claim a tensor, or leave it to the others."""
        return source_key, _ANY if source_key in self._names else None

    def convert(
        self,
        layer_name: str,
        model: Any = None,
        config: Any = None,
        hf_quantizer: Any = None,
        loading_info: Any = None,
    ) -> dict[str, Tensor]:
        """Return the tensor as it is."""
        (tensors,) = self.materialize_tensors().values()
        return {layer_name: tensors[0]}

    def reverse_transform(self) -> SavedAsIs:
        """Return itself: it is made for saving."""
        return self


def loading_conversions(
    rules: Iterable[Any],
    names: Mapping[str, str],
    becomes: Mapping[str, str],
    read: Callable[[str], Mapping[str, Tensor]],
) -> list[Any]:
    """Return rules for loading a packed checkpoint by transformers.

    Args:
        rules: transformers' own for the model.
        names: the files' name of each tensor of the model that is one of their tensors.
        becomes: the model's first tensor that any other tensor of the files is a part of.
        read: reads that and all that come about with it, by the model's names.
    """
    own = {file: name for name, file in names.items()}
    others = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    return [KnownNames(own, stay=becomes, others=others), ReadByUs(becomes, read)]


def saving_conversions(model: Any, names: Mapping[str, str]) -> list[Any]:
    """Return rules for saving a packed model by transformers, which reverses their order.

    Args:
        model: of transformers.
        names: the files' name of each tensor of the model that is one of their tensors.
    """
    loading = get_model_conversion_mapping(model, add_legacy=False)
    # As for any model that is not saved just as it was read: whether files have it is not known.
    rules = [rule for rule in loading if not isinstance(rule, PrefixChange)]
    renamings = [r.reverse_transform() for r in rules[::-1] if isinstance(r, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    files = frozenset(names.values())
    known: Any = KnownNames(names, stay=files, others=renamings)  # type: ignore[arg-type]
    return [*converters, known, SavedAsIs(files | frozenset(names))]
