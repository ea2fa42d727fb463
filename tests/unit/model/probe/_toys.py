"""Configs and models whose code does what the probe looks for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from transformers import AutoConfig

from autoround.model.blocks import decoder_blocks
from autoround.model.build import build_from
from autoround.model.probe.small_copy import SmallCopy, make_small_copy, signature


def built(kind: str, **options: Any) -> Any:
    """Build the modules of a type on meta."""
    return build_from(AutoConfig.for_model(kind, **options))


def copy_of(kind: str, **options: Any) -> SmallCopy:
    """Make the small copy of a type."""
    model = built(kind, **options)
    kinds = Counter(signature(model.get_submodule(path)) for path in decoder_blocks(model))
    copy = make_small_copy(type(model), model.config, kinds)
    assert isinstance(copy, SmallCopy), copy
    return copy


#: A model of several stacks that run more than once.
HRM = {"num_layers_per_stack": 2}
#: Blocks that read the keys and values of others.
SHARING = {"num_hidden_layers": 12, "num_kv_shared_layers": 6}
#: The time-step projection of Jamba has its published rank.
JAMBA = {"num_hidden_layers": 8, "mamba_dt_rank": 256, "use_mamba_kernels": False}
