"""Reading configs of auto-round, of any of its releases and modes.

The files say which layers are quantized, and the config how: ``extra_config`` by names, by ends of
names and by regexes, and its own keys for all other layers. Lists of blocks say nothing more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.auto_round.config import PACKINGS
from autoround.formats.awq.layout import AUTO_ROUND_AWQ
from autoround.formats.config_values import read_bits, read_flag, read_group_size, read_whole
from autoround.formats.fitting import Candidate, choose_scheme, headers_in
from autoround.formats.format import Layout, PackedLayer, packed_by
from autoround.formats.gptq.layout import AUTO_ROUND_V1, AUTO_ROUND_V2
from autoround.formats.layer_keys import LayerKeys, table
from autoround.types import Scheme

METHOD = "auto-round"
#: Parts of which a packed layer has at least one, also where a file is damaged.
_TELLING = ("qweight", "qzeros")
_LAYOUTS: Mapping[str, Layout] = {
    one.name: one for one in (AUTO_ROUND_V1, AUTO_ROUND_V2, AUTO_ROUND_AWQ)
}
#: Other spellings of packings, by which releases of auto-round called them.
_ALSO: Mapping[str, str] = {
    "auto": AUTO_ROUND_V1.name,
    "auto_round:gptq": AUTO_ROUND_V1.name,
    "auto_round:gptqmodel": AUTO_ROUND_V2.name,
    "auto_round:awq": AUTO_ROUND_AWQ.name,
}
#: Kernels that old releases named behind the packing, such as ``auto_round:gptq:exllamav2``.
_KERNELS = ("exllamav2", "triton", "gemm", "torch", "tritonv2")


def is_auto_round(config: Mapping[str, Any]) -> bool:
    """Tell whether a config is of auto-round, whichever way it spells its name.

    Args:
        config: of any program.
    """
    name = str(config.get("quant_method")).lower().rpartition("/")[2].replace("_", "-")
    return name in (METHOD, "autoround")


def packed_layers(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]], tensors: Collection[str]
) -> dict[str, PackedLayer]:
    """Return how every quantized layer is held.

    Args:
        config: of auto-round.
        shapes: candidate layers and their shapes (out, in); zeros where these are not known.
        tensors: headers of all tensors in the files, or their names.

    Returns:
        The layers whose tensors are packed, and any that ``extra_config`` names itself as quantized
        and that are not.

    Raises:
        FormatError: a value in the config is illegal, or no scheme fits a layer's tensors.
    """
    layout = _layout(config)
    base = _base_candidates(config)
    extra = table(config, "extra_config", of="layers")
    if not all(value is None or isinstance(value, Mapping) for value in extra.values()):
        raise FormatError("quantization_config.extra_config is not a table of layers")
    keys = LayerKeys(extra, {name.rpartition(".")[0] for name in tensors})
    packed = set(packed_by(_TELLING, shapes, tensors))
    layers = {}
    for name, shape in shapes.items():
        if name in packed:
            offered = [*_offers(config, extra, keys.matching(name)), *base]
            if not offered:
                raise FormatError(
                    f"layer {name} holds packed weights, and the quantization_config gives it 16 "
                    "bits"
                )
            headers = headers_in(tensors)
            scheme = choose_scheme(name, offered, layout, headers=headers, shape=shape)
            layers[name] = PackedLayer(scheme, layout.name)
        elif name in extra:
            # Named itself, a layer is meant; whoever calls this finds that its codes are missing.
            for candidate in _offers(config, extra, [name]):
                layers[name] = PackedLayer(candidate.scheme, layout.name)
    return layers


def _offers(
    config: Mapping[str, Any], extra: Mapping[str, Any], keys: list[str]
) -> Iterator[Candidate]:
    """Read the schemes of some keys of ``extra_config``, but for 16 bits."""
    for key in keys:
        scheme = _scheme({**config, **(extra[key] or {})}, f"of layer {key}")
        if scheme is not None and extra[key]:
            yield Candidate(scheme, f"extra_config {key!r}")


def _scheme(keys: Mapping[str, Any], where: str) -> Scheme | None:
    """Read a scheme; None for 16 bits or more, and for other numbers than integers."""
    bits = read_bits(keys.get("bits"), where=where)
    # auto-round writes an unquantized layer as one of 16 bits.
    if bits >= 16 or not _is_integer(keys.get("data_type")):
        return None
    size = read_group_size(keys.get("group_size"), where=where)
    return Scheme(bits, size, read_flag(keys.get("sym"), key="sym", where=where, missing=True))


def _base_candidates(config: Mapping[str, Any]) -> list[Candidate]:
    """Return the scheme of all layers that nothing is said of, if there is one."""
    activations = read_whole(16 if config.get("act_bits") is None else config["act_bits"])
    if not _is_integer(config.get("data_type")) or activations is None or activations < 16:
        raise FormatError("only integer weights with 16-bit activations can be read")
    scheme = _scheme(config, "of the model")
    return [] if scheme is None else [Candidate(scheme, "for the whole model")]


def _is_integer(data_type: object) -> bool:
    return data_type is None or data_type == "int"


def _layout(config: Mapping[str, Any]) -> Layout:
    """Return the layout that ``packing_format`` names, or an old config's ``backend``."""
    key = "packing_format" if config.get("packing_format") is not None else "backend"
    value = config.get(key)
    name = str(value).lower().replace("autoround", "auto_round")
    while name.rpartition(":")[2] in _KERNELS:
        name = name.rpartition(":")[0]
    if key == "backend" and (value is None or name not in {*_LAYOUTS, *_ALSO} - {"auto"}):
        # What auto-round itself takes; of asymmetric layers it says nothing that can be relied on.
        sym = read_flag(config.get("sym"), key="sym", where="of the model", missing=True)
        if not sym:
            raise FormatError(
                "quantization_config has no packing_format, which says how zero points of "
                f"asymmetric layers are stored; legal: {', '.join(PACKINGS)}"
            )
        name = AUTO_ROUND_V1.name
    name = _ALSO.get(name, name)
    if name not in _LAYOUTS:
        raise FormatError(f"{key} is {value!r}; legal: {', '.join(PACKINGS)}")
    return _LAYOUTS[name]
