"""Quantize language models to 2-8 bits by tuning the rounding of every weight.

The names below are imported when first used, so that importing this package is instant
and does not import torch. The one thing it does do is to let transformers load our checkpoints
and peft adapt them (``autoround.inference.hook``); ``use_for_transformers`` takes the first
back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoround._version import __version__
from autoround.inference import hook
from autoround.inference.hook import use_for_transformers

if TYPE_CHECKING:
    from autoround.api import AutoRound, plan, quantize
    from autoround.inference.hf_quantizer import AutoRoundConfig
    from autoround.inference.load import load
    from autoround.types import Destination

__all__ = [
    "AutoRound",
    "AutoRoundConfig",
    "Destination",
    "__version__",
    "load",
    "plan",
    "quantize",
    "use_for_transformers",
]

_HOMES = {
    "AutoRound": "autoround.api",
    "AutoRoundConfig": "autoround.inference.hf_quantizer",
    "plan": "autoround.api",
    "quantize": "autoround.api",
    "load": "autoround.inference.load",
    "Destination": "autoround.types",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autoround' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)


hook.install()
