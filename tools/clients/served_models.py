"""The tiny models and the cases of bits and rules that ``served.py`` writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

VOCABULARY = 512


class Case(NamedTuple):
    """Bits and rules of one model: keys of a recipe."""

    bits: int
    sym: bool = True
    layers: tuple[dict[str, Any], ...] = ()
    more: tuple[tuple[str, Any], ...] = ()


def _rule(bits: int, **what: Any) -> dict[str, Any]:
    """Return a rule of a recipe."""
    return {**what, "bits": bits}


CASES: dict[str, Case] = {
    "W4 sym": Case(4),
    "W4 asym": Case(4, sym=False),
    "W8 sym": Case(8),
    "W3 sym": Case(3),
    "W2 asym": Case(2, sym=False),
    "W4 g16 sym": Case(4, more=(("scheme.group_size", 16),)),
    "W4 channel sym": Case(4, more=(("scheme.group_size", -1),)),
    "attention 8": Case(4, layers=(_rule(8, kind="attention"),)),
    "first block 16": Case(4, layers=(_rule(16, match="re:.*", blocks="first 1"),)),
    "attention 16": Case(4, layers=(_rule(16, kind="attention"),)),
    "first block 8, attention 16": Case(
        4, layers=(_rule(8, match="re:.*", blocks="first 1"), _rule(16, kind="attention"))
    ),
    "W4 asym, attention 16": Case(4, sym=False, layers=(_rule(16, kind="attention"),)),
    "head 4": Case(4, layers=(_rule(4, kind="lm_head"),)),
    "head 8, attention 16": Case(4, layers=(_rule(16, kind="attention"), _rule(8, kind="lm_head"))),
    "q differs from k": Case(4, layers=(_rule(8, match="q_proj"),)),
}
EXPERTS: dict[str, Case] = {
    "experts 8, rest 4": Case(4, layers=(_rule(8, kind="experts"),)),
    "experts 4, rest 8": Case(8, layers=(_rule(4, kind="experts"),)),
    "experts 16, rest 4": Case(4, layers=(_rule(16, kind="experts"),)),
    "experts of the first block 16": Case(4, layers=(_rule(16, kind="experts", blocks="first 1"),)),
    "experts of the first block 8": Case(4, layers=(_rule(8, kind="experts", blocks="first 1"),)),
    "W4 asym, experts 16": Case(4, sym=False, layers=(_rule(16, kind="experts"),)),
}
VISION: dict[str, Case] = {"towers too": Case(4, more=(("quantize_vision", True),))}


def _small(kind: str, **values: Any) -> Any:
    """Return a config of transformers, small enough for seconds."""
    import transformers

    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return getattr(transformers, kind)(**{**common, **values})


def qwen2_moe() -> Any:
    """Return a mixture with a shared expert."""
    return _small(
        "Qwen2MoeConfig",
        moe_intermediate_size=128,
        shared_expert_intermediate_size=256,
        num_experts=8,
        num_experts_per_tok=2,
    )


def mixtral() -> Any:
    """Return a mixture whose experts are called w1, w2 and w3."""
    return _small("MixtralConfig", num_local_experts=4, num_experts_per_tok=2)


def narrow_moe() -> Any:
    """Return a mixture too narrow for the fast kernels for experts."""
    return _small(
        "Qwen3MoeConfig",
        hidden_size=192,
        head_dim=64,
        moe_intermediate_size=64,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
    )


def deepseek() -> Any:
    """Return latent attention, whose first projections are merged under a name of their own."""
    return _small(
        "DeepseekV2Config",
        q_lora_rank=64,
        kv_lora_rank=64,
        qk_rope_head_dim=64,
        qk_nope_head_dim=64,
        v_head_dim=64,
        first_k_dense_replace=1,
        moe_intermediate_size=128,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        topk_method="greedy",
        norm_topk_prob=False,
        routed_scaling_factor=1.0,
    )


def llava() -> Any:
    """Return a Llama with a CLIP tower: its layers end like the tower's."""
    import transformers

    tower = transformers.CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
        projection_dim=64,
    )
    text = _small("LlamaConfig")
    return transformers.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=5, tie_word_embeddings=False
    )


def qwen2_5_vl() -> Any:
    """Return a Qwen2 with a tower of its own."""
    import transformers

    text = _small("LlamaConfig").to_dict()
    keys = (
        "model_type",
        "architectures",
        "head_dim",
        "mlp_bias",
        "attention_bias",
        "pretraining_tp",
    )
    text = {k: v for k, v in text.items() if k not in keys}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [8, 12, 12],
    }
    return transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 256,
            "fullatt_block_indexes": [1],
        },
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=7,
        vision_end_token_id=8,
        tie_word_embeddings=False,
    )


MODELS: dict[str, tuple[Callable[[], Any], dict[str, Case]]] = {
    "llama": (lambda: _small("LlamaConfig"), CASES),
    "qwen2-moe": (qwen2_moe, {**EXPERTS, "attention 8": CASES["attention 8"]}),
    "mixtral": (mixtral, EXPERTS),
    "narrow-moe": (narrow_moe, EXPERTS),
    "deepseek": (
        deepseek,
        {name: CASES[name] for name in ("attention 8", "attention 16")}
        | {name: EXPERTS[name] for name in ("experts 8, rest 4", "experts 16, rest 4")},
    ),
    "llava": (
        llava,
        {
            name: CASES[name]
            for name in (
                *("W4 sym", "W4 asym", "attention 8", "first block 16", "attention 16"),
                *("first block 8, attention 16", "head 8, attention 16"),
            )
        }
        | VISION,
    ),
    "qwen2.5-vl": (
        qwen2_5_vl,
        {
            name: CASES[name]
            for name in ("W4 asym", "attention 8", "first block 16", "attention 16", "head 4")
        }
        | VISION,
    ),
}


def make_model(work: Path, name: str) -> Path:
    """Save a model of random weights, unless that was done before."""
    import torch
    import transformers

    folder = work / "models" / name
    if not folder.exists():
        torch.manual_seed(0)
        config = MODELS[name][0]()
        loader: Any = transformers.AutoModelForCausalLM
        if hasattr(config, "vision_config"):
            loader = transformers.AutoModelForImageTextToText
        model = loader.from_config(config).to(torch.float16)
        for parameter in model.parameters():
            # Biases too, which begin as zeros: what is not loaded is to be seen.
            if parameter.dim() == 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        model.save_pretrained(folder)
        if name == "llava":
            _as_published(folder / "model.safetensors")
    return folder


def _as_published(file: Path) -> None:
    """Give a CLIP tower the names that published checkpoints have, which vLLM asks for."""
    from safetensors.torch import load_file, save_file

    old, new = "vision_tower.", "vision_tower.vision_model."
    tensors = load_file(file)
    if not any(name.startswith(new) for name in tensors):
        tensors = {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}
        save_file(tensors, file, metadata={"format": "pt"})
