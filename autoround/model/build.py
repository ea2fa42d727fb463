"""The modules of a model, made from its config alone: parameters on meta, no weight read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoround.errors import ModelError, one_line
from autoround.model.files.locate import read_config
from autoround.model.known_configs import GENERATION
from autoround.model.unbuildable import why_unbuildable
from autoround.tested import warn_if_untested

#: Elements of a parameter that is never allocated, not even for a moment.
LARGE = 2**20
#: Endings of class names that answer with logits of the next token.
_ANSWERING = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
#: What fills a tensor with random numbers, as classes do with their new weights; transformers puts
#: functions of its own in the place of torch's, under the same names.
_RANDOM = ("uniform_", "normal_", "kaiming_uniform_")


def build_empty(folder: Path) -> nn.Module:
    """Build the model's modules with parameters on meta and buffers computed.

    Args:
        folder: with a config.json, and a generation_config.json if there is one.

    Raises:
        ModelError: transformers does not know the architecture as a language model, with or
            without a vision tower.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = build_from(config)
    except Exception as error:  # an odd config fails in many unrelated ways
        reason = why_unbuildable(read_config(folder), error)
        raise ModelError(
            f"{folder} cannot be built as a causal language model: {reason}"
        ) from error
    _take_generation_config(model, folder)
    return model


def _take_generation_config(model: Any, folder: Path) -> None:
    """Give a model what its folder says of generation: which tokens end a text, for one.

    Raises:
        ModelError: the file cannot be read.
    """
    from transformers import GenerationConfig

    if not (folder / GENERATION).is_file():
        return
    try:
        model.generation_config = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # an odd config fails in many unrelated ways
        reason = one_line(error)
        raise ModelError(f"{folder / GENERATION} cannot be read: {reason}") from error


def build_from_values(values: dict[str, Any]) -> nn.Module:
    """Build the model's modules from a config.json that is not written yet.

    Args:
        values: what stands in it.

    Raises:
        ModelError: as for :func:`build_empty`.
    """
    from transformers import CONFIG_MAPPING

    try:
        kind: Any = CONFIG_MAPPING[values["model_type"]]
        return build_from(kind.from_dict(plain_floats(values)))
    except Exception as error:  # an odd config fails in many unrelated ways
        raise ModelError(why_unbuildable(values, error)) from error


def plain_floats(value: Any) -> Any:
    """Return a copy of what a config.json holds, infinite numbers as such.

    JSON has none: transformers writes them as ``{"__float__": "Infinity"}``, and undoes that when
    it reads a file.

    Args:
        value: an object of the file, or anything in it.
    """
    if isinstance(value, dict):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {name: plain_floats(item) for name, item in value.items()}
    return [plain_floats(item) for item in value] if isinstance(value, list) else value


def build_from(config: Any) -> nn.Module:
    """Build the modules of a config's own class.

    A class named in ``architectures`` comes first, because a model with a vision tower has the
    same config as its text model alone; then the class transformers maps the config to.
    """
    from accelerate import init_empty_weights

    warn_if_untested()
    if getattr(config, "quantization_config", None) is not None:
        # Weights are unpacked by the sources; the modules are the plain ones.
        del config.quantization_config
    with init_empty_weights(include_buffers=False), _EmptyWeights():
        model = _make(config)
    model.tie_weights()  # type: ignore[operator]
    return model.eval()


class _EmptyWeights(TorchFunctionMode):
    """Allocates nothing for large parameters, not even until they are moved to meta.

    Random values for tensors on meta are not asked for: deciding their shapes takes longer than
    the rest of making a large mixture.

    The experts of one published layer are one tensor of thirty gigabytes in float32. Buffers are
    computed from other tensors than empty ones, and stay on the CPU.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func.__name__ in _RANDOM:
            filled = args[0] if args else kwargs["tensor"]
            if filled.is_meta:
                return filled
        sizes = args[0] if args and isinstance(args[0], list | tuple | torch.Size) else args
        whole = func is torch.empty and all(isinstance(n, int) for n in sizes)
        if whole and math.prod(sizes) >= LARGE:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _make(config: Any) -> nn.Module:
    import transformers

    for name in getattr(config, "architectures", None) or ():
        named = getattr(transformers, str(name), None)
        if named is None or not str(name).endswith(_ANSWERING):
            continue
        if isinstance(config, getattr(named, "config_class", None) or type(None)):
            made: nn.Module = named._from_config(config)
            return made
    last: Exception | None = None
    for auto in ("AutoModelForCausalLM", "AutoModelForImageTextToText"):
        try:
            made = getattr(transformers, auto).from_config(config, trust_remote_code=False)
            return made
        except ValueError as error:  # not mapped
            last = last or error
    assert last is not None
    raise last
