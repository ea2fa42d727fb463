"""Adapters of peft on packed layers: LoRA beside a weight that stays as it is.

peft chooses the class of an adapter by the class of the layer, and knows those of some packages.
This is imported when peft is, and tells it of ours (:mod:`autoround.inference.hook`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from autoround.errors import UsageError
from autoround.inference.experts import QuantExperts
from autoround.inference.linear import QuantLinear

#: Set on peft's own functions that were replaced here, so that it is done once.
_OURS = "_autoround_original"


def register(theirs: ModuleType) -> None:
    """Let LoRA of peft put adapters on packed layers.

    Args:
        theirs: the module ``peft.tuners.lora.model``.
    """
    model: Any = theirs.LoraModel
    if hasattr(model._create_new_module, _OURS):
        return
    packed = _lora_class(theirs)
    inject, place = model.inject_adapter, model._create_and_replace
    make, replace = model._create_new_module, model._replace_module

    def inject_adapter(
        self: Any, model: nn.Module, adapter_name: str, *others: Any, **options: Any
    ) -> None:
        config = self.peft_config[adapter_name]
        if getattr(config, "target_parameters", None):
            _refuse_experts(config, model)
        inject(self, model, adapter_name, *others, **options)
        # peft itself adds experts to what was asked for, where they once were layers.
        if _packed_experts(config, model):
            _warn_of_experts()

    def create_new_module(lora_config: Any, adapter_name: str, target: Any, **options: Any) -> Any:
        base = target.get_base_layer() if hasattr(target, "get_base_layer") else target
        if isinstance(base, QuantLinear):
            return packed(target, adapter_name, config=lora_config, **options)
        return make(lora_config, adapter_name, target, **options)

    def create_and_replace(
        self: Any, lora_config: Any, adapter_name: str, target: Any, *others: Any, **options: Any
    ) -> None:
        if isinstance(target, QuantLinear) and target.of_experts:
            _warn_of_experts()
            return
        place(self, lora_config, adapter_name, target, *others, **options)

    def replace_module(
        self: Any, parent: Any, child_name: str, new_module: Any, child: Any
    ) -> None:
        if not isinstance(getattr(child, "base_layer", child), QuantLinear):
            replace(self, parent, child_name, new_module, child)
            return
        # It is on its device already: peft looks for that in a weight, which there is none of.
        setattr(parent, child_name, new_module)

    setattr(create_new_module, _OURS, make)
    model.inject_adapter = inject_adapter
    model._create_new_module = staticmethod(create_new_module)
    model._create_and_replace = create_and_replace
    model._replace_module = replace_module


def name_packed_layers(theirs: ModuleType) -> None:
    """Let ``target_modules="all-linear"`` name packed layers, too.

    Args:
        theirs: the module ``peft.tuners.tuners_utils``.
    """
    include: Callable[..., Any] = theirs._maybe_include_all_linear_layers
    if hasattr(include, _OURS):
        return

    def include_packed(peft_config: Any, model: nn.Module) -> Any:
        asked = getattr(peft_config, "target_modules", None)
        config = include(peft_config, model)
        if isinstance(asked, str) and asked.lower() == "all-linear":
            config.target_modules = set(config.target_modules) | _adaptable(model, theirs)
        return config

    setattr(include_packed, _OURS, include)
    theirs._maybe_include_all_linear_layers = include_packed  # type: ignore[attr-defined]


def _adaptable(model: nn.Module, theirs: ModuleType) -> set[str]:
    """Return the paths of packed layers that all linear layers means: not the output head."""
    loaded: Any = model
    head = loaded.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    adapted = tuple(
        f"{path}."
        for path, module in model.named_modules()
        if isinstance(module, theirs.BaseTunerLayer)
    )
    return {
        path
        for path, module in model.named_modules()
        if isinstance(module, QuantLinear)
        and not module.of_experts
        and module is not head
        and not path.startswith(adapted)
    }


def _packed_experts(config: Any, model: nn.Module) -> list[str]:
    """Return the stacked weights of packed experts that ``target_parameters`` names."""
    asked = tuple(getattr(config, "target_parameters", None) or ())
    names = [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, QuantExperts)
        for name in module.stacked_names()
    ]
    return [n for n in names if any(n == p or n.endswith(f".{p}") for p in asked)]


def _refuse_experts(config: Any, model: nn.Module) -> None:
    """Refuse an adapter for packed experts, without which it would do another thing.

    Raises:
        UsageError: with the first of them.
    """
    names = _packed_experts(config, model)
    if names:
        raise UsageError(
            f"target_parameters names {len(names)} packed weights of experts, {names[0]} for one: "
            "no adapter can be put on them. Leave them out, or load with "
            "autoround.load(FOLDER, dense=True)"
        )


def _warn_of_experts() -> None:
    warnings.warn(
        "the adapter's targets name packed experts; they are unpacked for the model's own code, "
        "which runs no adapters on them, and are left out",
        stacklevel=2,
    )


class _PackedLora:
    """What a packed layer with LoRA does otherwise than peft's own layers."""

    #: peft's base of all layers with LoRA.
    lora_layer: Any

    def __init__(
        self: Any,
        base_layer: nn.Module,
        adapter_name: str,
        config: Any,
        r: int = 0,
        lora_alpha: int = 1,
        **others: Any,
    ) -> None:
        _refuse_variants(config)
        nn.Module.__init__(self)
        self.lora_layer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config)

    def _get_in_out_features(self, module: Any) -> tuple[int, int]:
        return module.in_features, module.out_features

    def _get_base_layer_device_and_dtype(
        self, base_layer: Any
    ) -> tuple[torch.device, torch.dtype | None]:
        # Adapters are trained in their own dtype, whatever the packed weight's parts have.
        return base_layer.device, None

    def forward(self: Any, x: Tensor, *others: Any, **options: Any) -> Tensor:
        """Multiply: x [..., in] to [..., out], in the dtype of x."""
        out: Tensor = self.base_layer(x)
        if self.disable_adapters:
            return out
        for name in self.active_adapters:
            if name in self.lora_A:
                down, up = self.lora_A[name], self.lora_B[name]
                given = self._cast_input_dtype(x, down.weight.dtype)
                added = up(down(self.lora_dropout[name](given))) * self.scaling[name]
                out = out + added.to(out.dtype)
        return out

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: a packed weight has no room for what an adapter adds.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "adapters cannot be merged into packed weights: merge them into the 16-bit model "
            "and quantize that, or load with autoround.load(FOLDER, dense=True)"
        )

    def unmerge(self) -> None:
        """Do nothing: nothing can have been merged."""

    def __repr__(self: Any) -> str:
        return f"lora.{nn.Module.__repr__(self)}"


def _lora_class(theirs: ModuleType) -> Any:
    """Make the class of a packed layer with LoRA, derived from peft's.

    theirs: the module ``peft.tuners.lora.model``.
    """
    # "Linear" is in the name because peft knows adapted linear layers by that.
    name, layer = "PackedLoraLinear", theirs.LoraLayer
    made = type(name, (_PackedLora, nn.Module, layer), {"lora_layer": layer})
    made.__module__ = __name__
    globals()[name] = made  # where a copy of a layer that was pickled looks for it
    return made


def _refuse_variants(config: Any) -> None:
    """Refuse what needs a weight to look at, before any layer is changed.

    Raises:
        UsageError: with what was asked for.
    """
    asked = [n for n in ("use_dora", "velora_config", "use_qalora") if getattr(config, n, None)]
    start = getattr(config, "init_lora_weights", True)
    if not isinstance(start, bool) and str(start).lower() != "gaussian":
        asked.append(f"init_lora_weights={start!r}")
    if asked:
        raise UsageError(
            f"packed layers take plain LoRA, not {', '.join(asked)}, which works on the weight; "
            "leave that out, or load with autoround.load(FOLDER, dense=True)"
        )
