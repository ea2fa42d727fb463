"""The quantizer through which transformers loads packed checkpoints.

``AutoModelForCausalLM.from_pretrained(folder)`` finds it for ``quant_method: auto-round``; with
``quantization_config=AutoRoundConfig(backend=...)`` GPTQ and AWQ checkpoints go through it too.
transformers reads the tensors; when they are there every layer is laid out for its kernel.
What the rest of this package offers is imported when it is used: this module is imported
while transformers itself still is.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transformers.quantizers.base import HfQuantizer
from transformers.utils import quantization_config as theirs

from autoround.inference import hook
from autoround.tested import warn_if_untested

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autoround.inference.opening import Opened

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
        #: What is being loaded, for the time of that.
        self._model: nn.Module | None = None
        self._opened: Opened | None = None
        #: Names in the files of packed layers, by their paths, and of their tensors.
        self._packed: dict[str, str] = {}
        self._as_stored: set[str] = set()
        self._restated: dict[str, Any] | None = None

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

    def validate_environment(
        self, *args: Any, device_map: Any = None, weights_only: Any = None, dtype: Any = None
    ) -> None:
        """Refuse a device_map that transformers worked out, before anything is read.

        Raises:
            UsageError: it offloads packed layers.
        """
        self._refuse_offloading(device_map)

    def _refuse_offloading(self, device_map: Any) -> None:
        from autoround.inference.placement import refuse_offloading

        if isinstance(device_map, dict):
            refuse_offloading(device_map, self._packed)

    def get_new_dtype(
        self, converter: Any, param: Any, dtype: torch.dtype | None
    ) -> torch.dtype | None:
        """Return what a tensor of the files is converted to; packed ones stay as they are."""
        stored = getattr(converter, "_original_source_patterns", None) or [""]
        return (
            None if stored[0] in self._as_stored else super().get_new_dtype(converter, param, dtype)
        )

    def update_weight_conversions(self, weight_conversions: Any, model: Any = None) -> Any:
        """Tell transformers which tensor of the files becomes which one of the model.

        transformers names the model since 5.21; it is the one whose layers were replaced before.
        """
        from autoround.inference.conversions import loading_conversions
        from autoround.inference.state_names import file_names

        opened, replaced = self._opened, self._model
        if opened is None or replaced is None:
            return weight_conversions
        becomes = opened.parts_of_others()
        names = file_names(replaced, opened, self._packed)
        return loading_conversions(weight_conversions, names, becomes, self._read)

    def _read(self, name: str) -> dict[str, torch.Tensor]:
        """Read a tensor that is not one of the files' as it stands, and all made with it."""
        import torch

        from autoround.model.wide import kept_by_class

        assert self._opened is not None
        tensors = self._opened.tensors
        keeps = kept_by_class(self._model)
        read = tensors.read(tensors.made_with(name))
        for made, tensor in read.items():
            wide = tensor.dtype == torch.float32 and keeps(made)
            if tensor.is_floating_point() and not wide:
                read[made] = tensor.to(self._dtype)
        return read

    def _process_model_before_weight_loading(self, model: nn.Module, **options: Any) -> None:
        from autoround.inference.heads import new_heads
        from autoround.inference.kernels import quant_layers
        from autoround.inference.opening import open_packed
        from autoround.inference.replace import replace_layers
        from autoround.model.files.gate_mark import warn_if_failed
        from autoround.model.files.source import CheckpointSource

        warn_if_untested()
        _say_who_loads(self._config.checkpoint)
        paths = [Path(file) for file in options.get("checkpoint_files") or ()]
        folder = paths[0].parent if paths else Path()
        warn_if_failed(folder)
        self._model = model
        self._opened = open_packed(
            folder,
            model,
            self._config.checkpoint,
            files=CheckpointSource(folder, files=paths),
            # They are tied when they have been read.
            tied=dict(getattr(model, "all_tied_weights_keys", {})),
            optional=new_heads(model),
        )
        for note in self._opened.notes:
            warnings.warn(note, stacklevel=2)
        # Once they are replaced there are no layers that blocks could be found by.
        self._restated = self._restate(model, self._opened)
        self._packed = replace_layers(model, self._opened, dtype=self._dtype)
        self._refuse_offloading(options.get("device_map"))
        for path, layer in quant_layers(model):
            layer.stand_in_weight()
            file = self._packed[path]
            self._as_stored |= {f"{file}.{part}" for part in layer.stored_parts() if part != "bias"}

    def _process_model_after_weight_loading(self, model: nn.Module, **options: Any) -> None:
        from autoround.errors import UsageError
        from autoround.inference.kernels import advise, quant_layers
        from autoround.inference.state_names import use_file_names

        dtype: Any = self._dtype or model.dtype
        for name, layer in quant_layers(model):
            layer.drop_stand_in()
            if layer.device.type == "meta":
                raise UsageError(f"layer {name} was not loaded; packed layers cannot be offloaded")
            layer.check(name)
            if not layer.of_experts:
                layer.prepare(dtype, backend=self._config.backend)
        assert self._opened is not None
        use_file_names(model, self._opened, self._packed)
        self._config.checkpoint = self._restated or self._config.checkpoint
        self._model = self._opened = None
        advise(model)

    def _restate(self, model: nn.Module, opened: Opened) -> dict[str, Any] | None:
        """Return auto-round's config for a checkpoint of others that ours was given for."""
        from autoround.errors import ModelError
        from autoround.formats.auto_round.config import restated_config
        from autoround.model.blocks import decoder_blocks, is_matrix

        # Its packings have no place for inputs that are grouped out of order.
        if self._config.checkpoint.get("desc_act"):
            return None
        try:
            blocks = decoder_blocks(model)
        except ModelError:
            return None
        plain = {n for n, m in model.named_modules() if is_matrix(m) and n not in opened.linears}
        files = opened.tensors.files_of(plain)
        return restated_config(opened.layers, files, blocks)

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
        """Tell that adapters can be trained beside packed weights, which stay as they are."""
        return True


_LOG = logging.getLogger("autoround")
#: Whether it has been said that checkpoints of auto-round come to us.
_SAID: list[bool] = []


def _say_who_loads(checkpoint: Mapping[str, Any]) -> None:
    """Say once that we load what auto-round itself would load, were we not imported."""
    if _SAID or checkpoint.get("quant_method") != METHOD:
        return
    _SAID.append(True)
    _LOG.warning(
        "checkpoints with quant_method 'auto-round' are loaded by autoround, since it was "
        "imported; autoround.use_for_transformers(False) leaves them to transformers' own "
        "integration of auto-round"
    )


#: Attribute of the module of tables: what stood in them before ours was put there.
_BEFORE = "before_autoround"


def register(tables: ModuleType) -> None:
    """Put config and quantizer into transformers' tables, in place of its own.

    tables: the module ``transformers.quantizers.auto``.
    """
    quantizers, configs = tables.AUTO_QUANTIZER_MAPPING, tables.AUTO_QUANTIZATION_CONFIG_MAPPING
    if quantizers.get(METHOD) is not AutoRoundQuantizer:
        before = {
            "quantizer": quantizers.get(METHOD),
            "config": configs.get(METHOD),
            "given": getattr(tables, "AutoRoundConfig", None),
        }
        setattr(tables, _BEFORE, before)
    quantizers[METHOD] = AutoRoundQuantizer
    configs[METHOD] = AutoRoundConfig
    # Where a user gives such a config, checkpoints are read by this class whatever wrote them.
    tables.AutoRoundConfig = AutoRoundConfig  # type: ignore[attr-defined]


def unregister(tables: ModuleType) -> None:
    """Put back what stood in transformers' tables before :func:`register`.

    tables: the module ``transformers.quantizers.auto``.
    """
    if tables.AUTO_QUANTIZER_MAPPING.get(METHOD) is not AutoRoundQuantizer:
        return
    before: dict[str, Any] = getattr(tables, _BEFORE)
    tables.AUTO_QUANTIZER_MAPPING[METHOD] = before["quantizer"]
    tables.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = before["config"]
    tables.AutoRoundConfig = before["given"]  # type: ignore[attr-defined]


# Where importing this module is what made transformers run, the tables were filled before.
hook.install()
