"""Reading configs of GPTQ checkpoints, whichever program wrote them.

The files say which layers are quantized; ``dynamic`` rules and the config's own keys say how.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.config_values import read_flag
from autoround.formats.fitting import Candidate, choose_scheme, headers_in
from autoround.formats.format import PackedLayer, packed_by
from autoround.formats.gptq.layout import AUTO_ROUND_V1, AUTO_ROUND_V2, GPTQ_V1, GPTQ_V2
from autoround.formats.layer_keys import table
from autoround.formats.schemes import read_scheme
from autoround.patterns import PatternError, matches

#: Layouts by what configs call them, with and without the group of each input.
_VERSIONS = {"gptq": (GPTQ_V1, AUTO_ROUND_V1), "gptq_v2": (GPTQ_V2, AUTO_ROUND_V2)}
_MODEL = "of the model"


def packed_layers(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]], tensors: Collection[str]
) -> dict[str, PackedLayer]:
    """Return how every quantized layer is held: those with a ``qweight``.

    Args:
        config: of GPTQ.
        shapes: candidate layers and their shapes (out, in); zeros where these are not known.
        tensors: headers of all tensors in the files, or their names.

    Raises:
        FormatError: the version is unknown, a value or a rule in the config is illegal, or no
            scheme fits a layer's tensors.
    """
    indexed, bare = _VERSIONS[_version(config)]
    # Kept layers need no rule: the files hold no qweight of theirs.
    rules = table(config, "dynamic", of="rules")
    ordered = read_flag(config.get("desc_act"), key="desc_act", where=_MODEL, missing=False)
    headers = headers_in(tensors)
    layers = {}
    for name in packed_by(("qweight", "qzeros"), shapes, tensors):
        # Files without g_idx have the very layout of AutoRound's packings.
        layout = indexed if f"{name}.g_idx" in tensors else bare
        offered = _offers(config, rules, name)
        scheme = choose_scheme(name, offered, layout, headers=headers, shape=shapes[name])
        if ordered and layout is bare and scheme.group_size > 0:
            raise FormatError(
                f"layer {name}: desc_act says that its inputs are out of order, and its g_idx, "
                "which says in what order, is missing"
            )
        layers[name] = PackedLayer(scheme, layout.name)
    return layers


def _version(config: Mapping[str, Any]) -> str:
    version = str(config.get("checkpoint_format") or config.get("format") or "gptq").lower()
    marlin = config.get("is_marlin_format")
    if read_flag(marlin, key="is_marlin_format", where=_MODEL, missing=False):
        version = "marlin"
    if version not in _VERSIONS:
        raise FormatError(
            f"GPTQ checkpoint_format {version!r} cannot be read; legal: {', '.join(_VERSIONS)}"
        )
    return version


def _offers(config: Mapping[str, Any], rules: Mapping[str, Any], name: str) -> Iterator[Candidate]:
    """Yield what the first rule that matches a layer sets, then what the model has."""
    where = f"of layer {name}"
    for rule, values in rules.items():
        try:
            matched = matches(rule.removeprefix("+:"), name)
        except PatternError as error:
            raise FormatError(f"dynamic rule {rule[:200]!r} is not a regex: {error}") from None
        if not rule.startswith("-:") and matched:
            if not isinstance(values, Mapping):
                raise FormatError(f"dynamic rule {rule!r} is not a table of keys")
            yield Candidate(read_scheme({**config, **values}, where), f"dynamic rule {rule!r}")
            break
    yield Candidate(read_scheme(config, where), "for the whole model")
