"""A config of the same class with few layers, heads, experts and tokens.

What is narrowed goes by the names that configs of transformers have for it, and each dimension of
a head, state or rank stays as it is: tables of positions and splits of a head fit them alone.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any

#: Heads that a narrow model has, where the number of heads allows it.
HEADS = 4
#: Experts that a narrow model has at most, and tokens of its vocabulary.
EXPERTS, VOCABULARY = 32, 512
#: Width between the two matrices of a feed-forward part at most.
INNER = 256
#: Reach of windows and of sparse attention, so that a few tokens go beyond it.
REACH = 4

_HEADS = re.compile(r"(^|_)(n_head|heads|query_groups)$")
_WIDTHS = re.compile(
    r"(^|_)(hidden_size|n_embd|d_model|dim_model|embedding_dim|emb_dim|d_ssm|lru_width|"
    r"embed_proj_dim|attention_hidden_size|latent_size)$"
)
#: Widths between two matrices of a block, which nothing else depends on.
_INNER = re.compile(
    r"(intermediate_size(_mlp)?|ffn_dim|dim_ff|dff|n_inner|ffn_hidden_size|d_inner|"
    r"feed_forward_size)$"
)
_OWN_WIDTH = re.compile(r"per_layer_input|router_hidden|vision|audio|encoder_hidden")
_EXPERTS = re.compile(r"^(n_routed_experts|num_experts|num_local_experts|moe_num_experts)$")
_LAYERS = re.compile(
    r"^(num_hidden_layers|n_layers?|num_layers|decoder_layers|num_decoder_layers|num_blocks|"
    r"num_layers_per_stack)$"
)
_VOCABULARY = re.compile(r"vocab_size|vocab_offset|ngram_vocab")
_TOKEN = re.compile(r"(_token_id|_token_index|_token_ids|_token)$")
_REACH = re.compile(r"^(sliding_window|sliding_window_size|index_topk|attention_chunk_size)$")
#: Groups of heads that share a state.
_GROUPS = re.compile(r"^(mamba_)?n_groups$")
#: Counts of layers that are part of all, and shrink with them.
_SHARES = re.compile(r"^(num_kv_shared_layers|first_k_dense_replace|max_window_layers)$")


def layer_count(config: Any) -> int:
    """Return how many layers a config's language part has, 0 where it does not say."""
    text = _text(config.to_dict())
    counts = [v for k, v in text.items() if _LAYERS.search(k) and isinstance(v, int)]
    return max(counts, default=0)


def narrow_config(config: Any, layers: int, *, widths: bool) -> Any:
    """Make a config of the same class for a small model.

    Args:
        config: of transformers.
        layers: how many decoder layers it is to have, the first ones.
        widths: whether heads and widths shrink as well.

    Returns:
        Another config; the one given is not changed.

    Raises:
        Exception: whatever the class raises for a combination that it does not take.
    """
    values = copy.deepcopy(config.to_dict())
    values.pop("quantization_config", None)
    text = _text(values)
    before = layer_count(config)
    if widths:
        _narrow_widths(text)
    _narrow_counts(text)
    _narrow_layers(text, before, layers)
    if text is not values:
        _narrow_tokens(values)
        _narrow_towers(values, text)
    made = type(config).from_dict(values)
    # Others (flash attention, for one) do not run on a CPU.
    attention = config._attn_implementation
    made._attn_implementation = attention if attention in (None, "eager") else "sdpa"
    return made


def _narrow_towers(values: dict[str, Any], text: Mapping[str, Any]) -> None:
    """Leave two layers of vision and audio towers, which text does not run through."""
    for part in values.values():
        if not isinstance(part, dict) or part is text:
            continue
        for name, value in part.items():
            if (_LAYERS.search(str(name)) or name == "depth") and _is_count(value):
                part[name] = min(value, 2)


def _text(values: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a config that describes the language model."""
    for name in ("text_config", "llm_config", "language_config"):
        part = values.get(name)
        if isinstance(part, dict):
            return _text(part)
    thinker = values.get("thinker_config")
    return _text(thinker) if isinstance(thinker, dict) else values


def _narrow_widths(text: dict[str, Any]) -> None:
    """Divide heads and widths by one number, so that what belongs together still does."""
    names = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
    heads = next((text[n] for n in names if _is_count(text.get(n))), 1)
    if heads <= HEADS:
        return
    widths = [v for k, v in text.items() if _WIDTHS.search(k) and _is_count(v)]
    groups = math.lcm(*(v for k, v in text.items() if _GROUPS.search(k) and _is_count(v)))
    fewer = [d for d in range(HEADS, heads) if heads % d == 0 and d % groups == 0] or [1]
    # State space layers have as many channels as their heads, or a multiple of the model's width.
    stateful = any(re.search(r"^expand|state_size|^mamba|ssm", name) for name in text)
    # Packed layouts hold rows and columns by the 32, and narrow models are packed in tests.
    whole = [
        d
        for d in fewer
        if all(v % (32 * heads // d) == 0 for v in widths) and not (stateful and d % 32)
    ]
    fitting = [d for d in fewer if all(v % (heads // d) == 0 for v in widths)]
    left = next(iter([*whole, *fitting, *fewer]))
    factor = heads // left
    for name, value in text.items():
        if not _is_count(value) or _OWN_WIDTH.search(name):
            continue
        if _HEADS.search(name):
            text[name] = _fewer_heads(value, heads, left)
        elif _WIDTHS.search(name) and value % factor == 0:
            text[name] = value // factor
        elif _INNER.search(name):
            # Grouped products want rows of whole 16 bytes.
            exact = value % (32 * factor) == 0
            text[name] = value // factor if exact else 32 * (value // (32 * factor) + 1)
            text[name] = text[name] if stateful else min(text[name], INNER)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _fewer_heads(value: int, heads: int, left: int) -> int:
    """Return a number of heads that has to ``left`` about the ratio that it had to ``heads``."""
    if value >= heads:
        return left * value // heads if value % heads == 0 else left
    wanted = max(1, value * left // heads)
    return next(d for d in range(wanted, 0, -1) if left % d == 0)


def _narrow_counts(text: dict[str, Any]) -> None:
    """Leave fewer experts and tokens."""
    _narrow_tokens(text)
    for name, value in text.items():
        if _EXPERTS.search(name) and isinstance(value, int) and value % EXPERTS == 0:
            text[name] = min(value, EXPERTS)
        elif _REACH.search(name) and isinstance(value, int):
            text[name] = min(value, REACH)


def _narrow_tokens(values: dict[str, Any]) -> None:
    """Shrink vocabularies, and give special tokens that are cut off numbers that are left."""
    next_token = VOCABULARY - 1
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if _VOCABULARY.search(name):
            values[name] = min(value, VOCABULARY)
        elif _TOKEN.search(name) and value >= VOCABULARY:
            values[name] = next_token
            next_token -= 1
    for name, value in values.items():
        if _TOKEN.search(name) and isinstance(value, list):
            values[name] = [v if isinstance(v, int) and v < VOCABULARY else 2 for v in value]


def _narrow_layers(text: dict[str, Any], before: int, layers: int) -> None:
    """Keep the first layers, and what lists say of them."""
    if not before or layers >= before:
        return
    for name, value in text.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            if _LAYERS.search(name) and value == before:
                text[name] = layers
            elif _SHARES.search(name):
                text[name] = _share(value, before, layers)
        elif isinstance(value, list):
            text[name] = _first(name, value, before, layers)
        elif isinstance(value, Mapping) and value and all(str(k).isdigit() for k in value):
            text[name] = {k: v for k, v in value.items() if int(k) < layers}


def _share(value: int, before: int, layers: int) -> int:
    return min(layers - 1, max(1, round(value * layers / before))) if value else 0


def _first(name: str, value: list[Any], before: int, layers: int) -> list[Any]:
    """Return what a list says of the first layers: an entry for each, or their numbers."""
    if len(value) == before:
        return value[:layers]
    numbers = all(isinstance(v, int) and 0 <= v < before for v in value)
    if numbers and re.search(r"layer|idx|indices|_ids", name) and value == sorted(set(value)):
        return [v for v in value if v < layers]
    return value
