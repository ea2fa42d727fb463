"""The names of a model's state: those that its checkpoint's files have.

transformers calls modules otherwise than many published checkpoints do, and renames as it loads
and saves. The quantization_config of a checkpoint speaks of its layers as the files call them, so
a packed model's state dict has the files' names, and is saved under them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from autoround.inference.linear import QuantLinear
from autoround.inference.opening import Opened


class StateNames:
    """Renames a model's state dict to the files' names, and back where one is loaded.

    files: the files' name of each tensor, by the model's name.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = dict(files)

    def __call__(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: Any
    ) -> None:
        """Rename a state dict that has just been made."""
        # Whoever offloads weights looks for what is on meta under the name of its parameter.
        _rename(state_dict, prefix, self.files, skips_meta=True)


class StateNamesBack:
    """Renames a state dict that is to be loaded from the files' names to the model's."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.names = {file: name for name, file in files.items()}

    def __call__(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: Any
    ) -> None:
        """Rename a state dict before modules take theirs."""
        _rename(state_dict, prefix, self.names)


def _rename(
    state_dict: dict[str, Any], prefix: str, names: Mapping[str, str], *, skips_meta: bool = False
) -> None:
    items = list(state_dict.items())
    state_dict.clear()
    for key, value in items:
        name = key.removeprefix(prefix)
        on_meta = skips_meta and isinstance(value, Tensor) and value.is_meta
        known = key.startswith(prefix) and name in names and not on_meta
        state_dict[prefix + names[name] if known else key] = value


def file_names(model: nn.Module, opened: Opened, packed: Mapping[str, str]) -> dict[str, str]:
    """Return the files' name of each tensor of a model's state that is one of their tensors.

    Args:
        model: its packed layers are in their places.
        opened: the checkpoint.
        packed: the names in the files of packed layers, by their paths.
    """
    plain = opened.tensors.plain_names()
    names = {n: file for n, file in plain.items() if n.removesuffix(".weight") not in packed}
    for path, file in packed.items():
        layer = model.get_submodule(path)
        assert isinstance(layer, QuantLinear)
        names.update({f"{path}.{part}": f"{file}.{part}" for part in layer.stored_parts()})
    return names


def use_file_names(model: nn.Module, opened: Opened, packed: Mapping[str, str]) -> None:
    """Give a loaded model's state dict, and what it is saved as, the names of its checkpoint.

    Args:
        model: loaded; hooks are put on it.
        opened: the checkpoint.
        packed: the names in the files of packed layers, by their paths.
    """
    from autoround.inference.conversions import saving_conversions

    names = file_names(model, opened, packed)
    model._weight_conversions = saving_conversions(model, names)  # type: ignore[assignment]
    different = {name: file for name, file in names.items() if name != file}
    if different:
        model.register_state_dict_post_hook(StateNames(different))
        model.register_load_state_dict_pre_hook(StateNamesBack(different))


def forget_file_names(model: nn.Module) -> None:
    """Let a model that is unpacked be saved as transformers saves any."""
    for hooks in (model._state_dict_hooks, model._load_state_dict_pre_hooks):
        for number, hook in list(hooks.items()):
            if isinstance(getattr(hook, "hook", hook), StateNames | StateNamesBack):
                del hooks[number]
    if hasattr(model, "_weight_conversions"):
        del model._weight_conversions
