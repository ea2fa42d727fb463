"""Map the tensors of a model to those of a GGUF file, with the transform between them.

Names come from the ``gguf`` package. What llama.cpp expects beyond them: rows of query
and key in pairs of halves for the Llama family (its rotary embedding takes neighbours,
transformers' the two halves of a head), Gemma's norms with their one added, GPT-2's
matrices transposed, experts of a layer in one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from autoround.errors import FormatError
from autoround.gguf.architectures import Architecture, architecture_of, text_part
from autoround.gguf.rope import rotary
from autoround.gguf.understood import refuse_unknown_keys
from autoround.gguf.windows import sliding_layers, window_plan

Transform = Literal[
    "none", "permute", "plus_one", "transpose", "first_half", "second_half", "made", "by_head"
]

#: Where models with towers have their text part.
_TEXT = re.compile(r"^model\.(?:language_model|text_model)\.(?:model\.)?")
_BLOCK = re.compile(r"^blk\.(\d+)\.")
_EXPERTS = re.compile(
    r"^model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(gate_up_proj|down_proj)$"
)
#: Names of tensors that are computed from the config; no checkpoint holds them.
_MADE = ("rope_freqs", "rope_factors_long", "rope_factors_short")


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of the file.

    Attributes:
        name: Name in the file.
        sources: The model's own tensors it is made of.
        shape: Shape as in torch, columns last.
        transform: What is done to the source.
        heads: Number of attention heads of a permuted tensor, else 0.
        values: Values of a tensor that no checkpoint holds.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    transform: Transform = "none"
    heads: int = 0
    values: tuple[float, ...] = ()


def architecture(config: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of an architecture.

    Raises:
        FormatError: The architecture cannot be written.
    """
    return architecture_of(config).name


def targets(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[Target, ...]:
    """Return the tensors of a file: blocks in order, then non-block tensors.

    Args:
        config: As transformers writes it.
        shapes: Shapes of the model's own tensors, by name.

    Raises:
        FormatError: llama.cpp has no name for a tensor, or computes the architecture in another
            way than the config says.
    """
    import gguf

    arch = architecture_of(config)
    names_of_text = text_names(config, shapes)
    config = text_part(config)
    _refuse_incompatible(config, arch, shapes)
    number = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch.name)
    names = gguf.get_tensor_name_map(number, block_count(config))
    mapped: list[Target] = []
    for source, own_name in names_of_text.items():
        shape = shapes[source]
        if bool(config.get("tie_word_embeddings")) and own_name == "lm_head.weight":
            continue
        experts = _EXPERTS.match(own_name)
        if experts:
            mapped += _expert_targets(source, shape, experts)
            continue
        name = names.get_name(own_name, try_suffixes=(".weight", ".bias"))
        for pattern, renamed in arch.renames:
            name = re.sub(pattern, renamed, own_name) if re.match(pattern, own_name) else name
        if name is None:
            raise FormatError(f"GGUF: tensor {source} has no place in a {arch.name} file")
        mapped.append(_target(config, arch, name, source=source, shape=shape))
    factors = {} if arch.name == "gpt2" else rotary(config, arch).tensors
    for name, values in factors.items():
        mapped.append(Target(f"{name}.weight", (), (len(values),), "made", values=values))
    return tuple(sorted(mapped, key=_order))


def text_names(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Return the tensors of a model's text part: their names as those of a model of text, by name.

    Args:
        config: As transformers writes it.
        names: The model's own tensors, those of towers for images or sound among them.
    """
    if text_part(config) is config:
        return {name: name for name in names}
    return {
        name: _TEXT.sub("model.", name) for name in names if _TEXT.match(name) or _is_head(name)
    }


def _is_head(name: str) -> bool:
    return name.startswith("lm_head.")


def block_count(config: Mapping[str, Any]) -> int:
    """Return the number of decoder blocks."""
    return int(config.get("num_hidden_layers") or config.get("n_layer") or 0)


def _order(target: Target) -> tuple[int, int]:
    block = _BLOCK.match(target.name)
    if block:
        return 0, int(block[1])
    return (2 if target.transform == "made" else 1), 0


def _expert_targets(source: str, shape: tuple[int, ...], match: re.Match[str]) -> list[Target]:
    block, part = match.groups()
    if part == "down_proj":
        return [Target(f"blk.{block}.ffn_down_exps.weight", (source,), shape)]
    # [experts, rows of gate then rows of up, in]: llama.cpp has a tensor for each.
    half = (shape[0], shape[1] // 2, shape[2])
    return [
        Target(f"blk.{block}.ffn_gate_exps.weight", (source,), half, "first_half"),
        Target(f"blk.{block}.ffn_up_exps.weight", (source,), half, "second_half"),
    ]


def _target(
    config: Mapping[str, Any], arch: Architecture, name: str, *, source: str, shape: tuple[int, ...]
) -> Target:
    module = name.split(".")[-2]
    if arch.pairs and module in ("attn_q", "attn_k"):
        heads = int(config["num_attention_heads"])
        if module == "attn_k":
            heads = int(config.get("num_key_value_heads") or heads)
        return Target(name, (source,), shape, "permute", heads)
    if arch.plus_one and module.endswith("norm") and name.endswith(".weight"):
        return Target(name, (source,), shape, "plus_one")
    # GPT-2 multiplies from the other side in its blocks, and nowhere else.
    if arch.name == "gpt2" and len(shape) == 2 and name.startswith("blk."):
        return Target(name, (source,), (shape[1], shape[0]), "transpose")
    if arch.name == "gptneox" and module == "attn_qkv":
        heads = int(config["num_attention_heads"])
        return Target(name, (source,), shape, "by_head", heads)
    # One router of a single row is a vector in the file, and so are biases of routers.
    if module in ("ffn_gate_inp_shexp", "exp_probs_b"):
        return Target(name, (source,), shape[-1:])
    return Target(name, (source,), shape)


def row_order(target: Target) -> Tensor | None:
    """Return the source row of each row of the file, int64 [rows]; None where they stay."""
    if target.transform not in ("permute", "by_head"):
        return None
    rows = torch.arange(target.shape[0])
    if target.transform == "by_head":
        # Queries of all heads, keys of all, values of all, where each head had its three.
        return rows.reshape(target.heads, 3, -1).transpose(0, 1).reshape(-1)
    # Row j of the second half of a head follows row j of the first.
    return rows.reshape(target.heads, 2, -1).transpose(1, 2).reshape(-1)


def expert_rows(target: Target, rows: int) -> Tensor | None:
    """Return the rows of all stacked experts that a target takes, int64; None where it takes all.

    Args:
        target: A tensor of stacked experts, [experts, out, in].
        rows: Rows of the model's own tensor, those of all experts.
    """
    count, half_rows, _ = target.shape
    if target.transform not in ("first_half", "second_half"):
        return None
    by_expert = torch.arange(rows).reshape(count, -1)
    first = target.transform == "first_half"
    half = by_expert[:, :half_rows] if first else by_expert[:, half_rows:]
    return half.reshape(-1)


def apply(target: Target, tensors: Sequence[Tensor]) -> Tensor:
    """Make a tensor of the file from the model's own.

    Args:
        target: The tensor of the file.
        tensors: Its sources, in the model's shapes.

    Returns:
        A tensor of the target's shape.
    """
    if target.transform == "made":
        return torch.tensor(target.values, dtype=torch.float32)
    tensor = tensors[0]
    order = row_order(target)
    if order is not None:
        tensor = tensor[order]
    elif target.transform == "plus_one":
        # In float32: next to 1, bfloat16 would round small weights away.
        tensor = tensor.float() + 1.0
    elif target.transform == "transpose":
        tensor = tensor.t()
    elif target.transform == "first_half":
        tensor = tensor[:, : target.shape[1]]
    elif target.transform == "second_half":
        tensor = tensor[:, target.shape[1] :]
    return tensor.reshape(target.shape)


def restore(parts: Sequence[tuple[Target, Tensor]], shape: tuple[int, ...]) -> Tensor:
    """Make one of the model's own tensors from those of the file; undoes :func:`apply`.

    Args:
        parts: The targets that have it as their source, each with its values.
        shape: Shape of the model's tensor.
    """
    restored = []
    for target, tensor in parts:
        order = row_order(target)
        if order is not None:
            # Sorting a permutation gives its inverse.
            tensor = tensor[torch.argsort(order)]
        elif target.transform == "plus_one":
            tensor = tensor - 1.0
        elif target.transform == "transpose":
            tensor = tensor.t()
        restored.append(tensor)
    # Gate and up of stacked experts are two tensors in the file, and one in the model.
    whole = restored[0] if len(restored) == 1 else torch.cat(restored, dim=1)
    return whole.reshape(shape)


def _refuse_incompatible(
    config: Mapping[str, Any], arch: Architecture, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a config that llama.cpp would compute in another way than transformers."""
    refuse_unknown_keys(config, arch.known_keys())
    for key, legal in arch.legal:
        if config.get(key, legal[0]) not in legal:
            raise FormatError(
                f"GGUF: {key}={config[key]!r} of a {arch.name} model; llama.cpp computes with "
                f"{' or '.join(map(str, legal))} only"
            )
    heads = config.get("num_attention_heads")
    if not arch.grouped and config.get("num_key_value_heads", heads) not in (heads, None):
        raise FormatError(
            f"GGUF: num_key_value_heads={config['num_key_value_heads']} of a {arch.name} model; "
            f"llama.cpp has as many as heads of queries ({heads})"
        )
    _refuse_by_depth(config, arch)
    if "no_rope_layers" in arch.keys:
        _refuse_turns(config, arch)
    keys = ("hidden_activation", "activation_function", "hidden_act")
    activation = next((config[key] for key in keys if config.get(key)), arch.activations[0])
    if activation not in arch.activations:
        raise FormatError(
            f"GGUF: activation {activation!r} of a {arch.name} model; llama.cpp computes "
            f"{' or '.join(arch.activations)} only"
        )
    if arch.name in ("gemma2", "gemma3"):
        _refuse_gemma(config, arch.name)
    window_plan(config, arch)
    dense = [n for n in shapes if n.endswith("mlp.gate_proj.weight")]
    if dense and "decoder_sparse_step" in arch.keys:
        raise FormatError(
            f"GGUF: {dense[0]} is a dense layer among those of experts, in {arch.name}"
        )


def _refuse_gemma(config: Mapping[str, Any], arch: str) -> None:
    head = int(config["head_dim"])
    layers = block_count(config)
    # The largest of each generation scales by width over heads, which is told by its depth.
    largest = {"gemma2": 46, "gemma3": 62}[arch]
    scale = head
    if layers == largest:
        scale = int(config["hidden_size"]) // int(config["num_attention_heads"])
    if int(config.get("query_pre_attn_scalar") or head) != scale:
        raise FormatError(
            f"GGUF: query_pre_attn_scalar={config.get('query_pre_attn_scalar')} of a {arch} "
            f"model; llama.cpp scales by {scale}"
        )
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        # llama.cpp takes the published value where a file has none.
        if arch == "gemma2" and not config.get(key, True):
            raise FormatError(f"GGUF: {key} of a gemma2 model is off; llama.cpp computes with one")
    if arch == "gemma3" and config.get("attn_logit_softcapping"):
        raise FormatError(
            f"GGUF: attn_logit_softcapping={config['attn_logit_softcapping']} of a gemma3 model; "
            "llama.cpp computes without"
        )


def _refuse_turns(config: Mapping[str, Any], arch: Architecture) -> None:
    """Refuse layers without a rotary embedding that are not llama.cpp's, each fourth."""
    expected = [int((i + 1) % 4 != 0) for i in range(block_count(config))]
    turns = config.get("no_rope_layers")
    if turns and list(map(int, turns)) != expected:
        raise FormatError(
            f"GGUF: no_rope_layers of this {arch.name} model; llama.cpp turns all layers but each "
            "fourth"
        )


def _refuse_by_depth(config: Mapping[str, Any], arch: Architecture) -> None:
    """Refuse what llama.cpp computes for models of certain depths only, by which it tells them."""
    layers = block_count(config)
    if arch.name == "exaone4" and any(sliding_layers(config)) and layers != 64:
        raise FormatError(
            f"GGUF: an exaone4 model of {layers} layers with a sliding window; llama.cpp has "
            "windows in those of 64 layers only, and turns all heads in others"
        )
    if arch.name == "deepseek2" and not config.get("q_lora_rank") and layers not in (26, 27):
        raise FormatError(
            f"GGUF: a deepseek2 model of {layers} layers without q_lora_rank; llama.cpp takes "
            "those of 26 and 27 layers to have none"
        )
