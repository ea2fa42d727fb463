"""The quantizer through which transformers loads packed checkpoints.

``AutoModelForCausalLM.from_pretrained(folder)`` finds it for ``quant_method: auto-round``; with
``quantization_config=AutoRoundConfig(backend=...)`` GPTQ and AWQ checkpoints go through it too.
transformers reads the tensors; when they are there every layer is laid out for its kernel.
What the rest of this package offers is imported when it is used: this module is imported
while transformers itself still is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transformers.quantizers.base import HfQuantizer
from transformers.utils import quantization_config as theirs

from autoround.inference import hook

if TYPE_CHECKING:
    import torch
    from torch import nn

METHOD = "auto-round"
#: The class of transformers, whose objects are taken for ours, too.
_Theirs = theirs.AutoRoundConfig


class _AlsoTheirs(type):
    """Makes an object of transformers' own class pass for one of ours."""

    def __instancecheck__(cls, instance: object) -> bool:
        return type.__instancecheck__(_Theirs, instance)


class AutoRoundConfig(_Theirs, metaclass=_AlsoTheirs):
    """How packed layers are to be run: ``backend`` names a kernel, or is ``auto``.

    Given to ``from_pretrained`` as ``quantization_config``, it also makes GPTQ and AWQ
    checkpoints load without the packages that made them. ``checkpoint`` holds what the
    checkpoint itself says; it is what a saved config says again.
    """

    def __init__(self, backend: str = "auto", checkpoint: Mapping[str, Any] | None = None) -> None:
        self.quant_method = theirs.QuantizationMethod.AUTOROUND
        self.backend = backend
        self.checkpoint = dict(checkpoint or {})

    @classmethod
    def from_dict(  # type: ignore[override]
        cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False
    ) -> Any:
        """Keep what a checkpoint says of itself."""
        config = cls(checkpoint=config_dict)
        return (config, {}) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        """Return what the checkpoint says of itself."""
        return copy.deepcopy(self.checkpoint) or {"quant_method": METHOD, "backend": self.backend}


class AutoRoundQuantizer(HfQuantizer):
    """Puts packed layers where the checkpoint has some, and prepares them once filled."""

    requires_calibration = True

    def __init__(self, quantization_config: Any, *, pre_quantized: bool = True) -> None:
        """Take a config; the kernel it names has to exist.

        Raises:
            UsageError: no kernel has that name.
        """
        from autoround.device.kernels import check_backend

        super().__init__(quantization_config, pre_quantized=pre_quantized)
        check_backend(quantization_config.backend)
        self._config: Any = quantization_config
        self._dtype: torch.dtype | None = None

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Note what activations will be."""
        self._dtype = dtype
        return dtype

    def update_device_map(self, device_map: dict[str, Any] | None) -> dict[str, Any] | None:
        """Refuse what could not work, before anything is read.

        Raises:
            UsageError: layers would go to disk.
        """
        from autoround.errors import UsageError

        if isinstance(device_map, dict) and "disk" in device_map.values():
            raise UsageError("packed layers cannot be on disk: leave that out of device_map")
        return device_map

    def _process_model_before_weight_loading(self, model: nn.Module, **options: Any) -> None:
        from autoround.inference.replace import replace_layers
        from autoround.model.files.source import headers_of

        headers = headers_of(options.get("checkpoint_files") or ())
        # They are tied when they have been read.
        tied = dict(getattr(model, "all_tied_weights_keys", {}))
        replace_layers(model, self._config.checkpoint, headers, dtype=self._dtype, tied=tied)

    def _process_model_after_weight_loading(self, model: nn.Module, **options: Any) -> None:
        from autoround.errors import UsageError
        from autoround.inference.kernels import advise, quant_layers

        dtype: Any = self._dtype or model.dtype
        for name, layer in quant_layers(model):
            if layer.device.type == "meta":
                raise UsageError(f"layer {name} was not loaded; packed layers cannot be offloaded")
            layer.check(name)
            layer.prepare(dtype, backend=self._config.backend)
        advise(model)

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        import torch

        from autoround.inference.load import densify

        densify(model, dtype or torch.float32)
        return model

    def is_serializable(self) -> bool:
        """Tell that a loaded model can be saved: its state is that of the checkpoint."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Tell that packed weights are not trained; gradients do pass through them."""
        return False


def register(tables: ModuleType) -> None:
    """Put config and quantizer into transformers' tables, in place of its own.

    tables: the module ``transformers.quantizers.auto``.
    """
    tables.AUTO_QUANTIZER_MAPPING[METHOD] = AutoRoundQuantizer
    tables.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = AutoRoundConfig
    # Where a user gives such a config, checkpoints are read by this class whatever wrote them.
    tables.AutoRoundConfig = AutoRoundConfig  # type: ignore[attr-defined]


# Where importing this module is what made transformers run, the tables were filled before.
hook.install()
