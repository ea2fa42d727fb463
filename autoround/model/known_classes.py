"""What the commonest model classes hold, without them: tensors and matrices by the config alone.

Importing a class takes seconds, and most of what is asked of one is whether files fit it. So a few
are written down here, for configs that hold nothing unusual; a test holds them against the classes.
What is not known is asked of the class itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from autoround.model.known_configs import generation_is_plain, is_plain
from autoround.tested import transformers_is_tested

#: Matrices of an expert smaller than this are not told from other parameters.
_LEAST = 8
#: Routers of more experts are not told from other matrices.
_MOST_EXPERTS = 1024
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KnownMatrix:
    """A weight matrix of a class.

    name: of its module, or of the parameter that experts are stacked in. shape: (out, in), of one
    expert's matrix where it is stacked. bias: whether there is one beside it. experts: how many are
    stacked in it, 0 for a single matrix. parts: what files have in its place, ``{}`` for the
    expert; empty for a single one.
    """

    name: str
    shape: tuple[int, int]
    bias: bool = False
    experts: int = 0
    parts: tuple[str, ...] = ()

    def files(self) -> Iterator[str]:
        """Yield the modules that the files have it as."""
        if not self.experts:
            yield self.name
            return
        for expert in range(self.experts):
            yield from (part.replace("{}", str(expert)) for part in self.parts)


@dataclass(frozen=True, slots=True)
class KnownClass:
    """A model class as its files have it.

    name: of the class. blocks: paths of the decoder blocks. matrices: in module order. vectors:
    shapes of all other tensors by name. tied: tensors that are another one, and need not be there.
    """

    name: str
    blocks: tuple[str, ...]
    matrices: tuple[KnownMatrix, ...]
    vectors: Mapping[str, Shape]
    tied: frozenset[str]

    def tensors(self) -> dict[str, Shape]:
        """Return the shape of every tensor that files of the class may have."""
        weights = {f"{file}.weight": m.shape for m in self.matrices for file in m.files()}
        return {**weights, **self.vectors}


def known_class(config: Mapping[str, Any], folder: Path) -> KnownClass | None:
    """Return the class of a config, where all of it is known.

    Args:
        config: the folder's config.json.
        folder: of the model.

    Returns:
        None where the class is not written down here, or config or folder hold anything that it may
        have a word about; or where transformers is of a version that this was not held against.
    """
    row = _CLASSES.get(str(config.get("model_type")))
    if row is None or not is_plain(config, row[0]):
        return None
    if not generation_is_plain(folder) or not transformers_is_tested():
        return None
    return row[1](row[0], config)


class _Sizes:
    """The sizes that a config gives."""

    def __init__(self, config: Mapping[str, Any], *, head_dim: int | None = None) -> None:
        self.hidden: int = config["hidden_size"]
        heads, default = config["num_attention_heads"], head_dim
        self.head: int = config.get("head_dim") or default or self.hidden // heads
        self.queries = heads * self.head
        self.keys = config["num_key_value_heads"] * self.head
        self.inner: int = config["intermediate_size"]
        self.vocabulary: int = config["vocab_size"]
        self.layers: int = config["num_hidden_layers"]
        self.bias = bool(config.get("attention_bias"))
        self.mlp_bias = bool(config.get("mlp_bias"))


def _attention(sizes: _Sizes, block: str, *, output_bias: bool) -> Iterator[KnownMatrix]:
    path = f"{block}.self_attn"
    yield KnownMatrix(f"{path}.q_proj", (sizes.queries, sizes.hidden), sizes.bias)
    yield KnownMatrix(f"{path}.k_proj", (sizes.keys, sizes.hidden), sizes.bias)
    yield KnownMatrix(f"{path}.v_proj", (sizes.keys, sizes.hidden), sizes.bias)
    yield KnownMatrix(f"{path}.o_proj", (sizes.hidden, sizes.queries), output_bias)


def _mlp(sizes: _Sizes, block: str) -> Iterator[KnownMatrix]:
    path, bias = f"{block}.mlp", sizes.mlp_bias
    yield KnownMatrix(f"{path}.gate_proj", (sizes.inner, sizes.hidden), bias)
    yield KnownMatrix(f"{path}.up_proj", (sizes.inner, sizes.hidden), bias)
    yield KnownMatrix(f"{path}.down_proj", (sizes.hidden, sizes.inner), bias)


def _experts(count: int, inner: int, sizes: _Sizes, block: str) -> Iterator[KnownMatrix]:
    path = f"{block}.mlp.experts"
    gated = tuple(f"{path}.{{}}.{part}" for part in ("gate_proj", "up_proj"))
    yield KnownMatrix(f"{path}.gate_up_proj", (inner, sizes.hidden), False, count, gated)
    down = (f"{path}.{{}}.down_proj",)
    yield KnownMatrix(f"{path}.down_proj", (sizes.hidden, inner), False, count, down)
    yield KnownMatrix(f"{block}.mlp.gate", (count, sizes.hidden))


Mlp: TypeAlias = Callable[[int, str], Iterator[KnownMatrix]]


def _decoder(
    name: str,
    config: Mapping[str, Any],
    sizes: _Sizes,
    *,
    mlp: Mlp,
    output_bias: bool,
    norms: tuple[str, ...] = (),
) -> KnownClass:
    """Return a decoder of the usual make; norms: of attention, one number for each of a head."""
    blocks = tuple(f"model.layers.{i}" for i in range(sizes.layers))
    matrices: list[KnownMatrix] = []
    vectors: dict[str, Shape] = {
        "model.embed_tokens.weight": (sizes.vocabulary, sizes.hidden),
        "model.norm.weight": (sizes.hidden,),
    }
    for i, block in enumerate(blocks):
        matrices += [*_attention(sizes, block, output_bias=output_bias), *mlp(i, block)]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            vectors[f"{block}.{norm}.weight"] = (sizes.hidden,)
        vectors |= {f"{block}.self_attn.{norm}.weight": (sizes.head,) for norm in norms}
    matrices.append(KnownMatrix("lm_head", (sizes.vocabulary, sizes.hidden)))
    vectors |= {f"{m.name}.bias": m.shape[:1] for m in matrices if m.bias}
    tied = frozenset({"lm_head.weight"} if config.get("tie_word_embeddings") else ())
    return KnownClass(name, blocks, tuple(matrices), vectors, tied)


def _llama(name: str, config: Mapping[str, Any]) -> KnownClass:
    sizes = _Sizes(config)
    return _decoder(
        name, config, sizes, mlp=lambda _, block: _mlp(sizes, block), output_bias=sizes.bias
    )


def _qwen2(name: str, config: Mapping[str, Any]) -> KnownClass:
    sizes = _Sizes(config)
    sizes.bias = True  # of queries, keys and values, whatever a config says
    return _decoder(name, config, sizes, mlp=lambda _, block: _mlp(sizes, block), output_bias=False)


def _qwen3(name: str, config: Mapping[str, Any]) -> KnownClass:
    sizes = _Sizes(config, head_dim=128)
    return _decoder(
        name,
        config,
        sizes,
        mlp=lambda _, block: _mlp(sizes, block),
        output_bias=sizes.bias,
        norms=("q_norm", "k_norm"),
    )


def _qwen3_moe(name: str, config: Mapping[str, Any]) -> KnownClass | None:
    count = config.get("num_experts", config.get("num_local_experts"))
    inner = config.get("moe_intermediate_size")
    sizes = _Sizes(config)
    # A single expert has no number that differs in its names.
    if count is None or inner is None or not 1 < count <= _MOST_EXPERTS:
        return None
    if min(inner, sizes.hidden) < _LEAST:
        return None
    dense, step = config.get("mlp_only_layers") or (), config.get("decoder_sparse_step", 1)

    def mlp(i: int, block: str) -> Iterator[KnownMatrix]:
        sparse = i not in dense and (i + 1) % step == 0
        return _experts(count, inner, sizes, block) if sparse else _mlp(sizes, block)

    norms = ("q_norm", "k_norm")
    return _decoder(name, config, sizes, mlp=mlp, output_bias=sizes.bias, norms=norms)


_CLASSES: Mapping[str, tuple[str, Callable[[str, Mapping[str, Any]], KnownClass | None]]] = {
    "llama": ("LlamaForCausalLM", _llama),
    "mistral": ("MistralForCausalLM", _llama),
    "qwen2": ("Qwen2ForCausalLM", _qwen2),
    "qwen3": ("Qwen3ForCausalLM", _qwen3),
    "qwen3_moe": ("Qwen3MoeForCausalLM", _qwen3_moe),
}
