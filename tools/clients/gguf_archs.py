"""Compare llama.cpp with transformers on a tiny random model of every architecture.

    python tools/clients/gguf_archs.py --work DIR --python VENV/bin/python [--only NAME]

Each model is written in float32, so that nothing is rounded, and run by both; what is
compared is names, turns, permutations and metadata. Prints a table and exits with 1 where
the KL divergence exceeds 1e-5 nats: a mistake in attention or norms is far above that.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

VOCABULARY = 512
COMMON = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "initializer_range": 0.08,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
GPT2 = {
    "n_embd": 256,
    "n_layer": 3,
    "n_head": 8,
    "vocab_size": VOCABULARY,
    "n_positions": 512,
    "initializer_range": 0.08,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Name, class of the config, and what differs from the common values.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "LlamaConfig", {}),
    ("llama, tied, wide heads", "LlamaConfig", {"head_dim": 64, "tie_word_embeddings": True}),
    ("llama, llama3 rope", "LlamaConfig", {"rope_parameters": LLAMA3}),
    (
        "llama, linear rope",
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    (
        "llama, yarn rope",
        "LlamaConfig",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            }
        },
    ),
    ("mistral", "MistralConfig", {"sliding_window": None}),
    ("mixtral", "MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ("qwen2", "Qwen2Config", {}),
    ("qwen3", "Qwen3Config", {"head_dim": 32}),
    (
        "qwen2_moe",
        "Qwen2MoeConfig",
        {**EXPERTS, "shared_expert_intermediate_size": 512, "norm_topk_prob": False},
    ),
    ("qwen3_moe", "Qwen3MoeConfig", {**EXPERTS, "head_dim": 32, "norm_topk_prob": True}),
    ("gemma", "GemmaConfig", {"head_dim": 32}),
    (
        "gemma2",
        "Gemma2Config",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 32},
    ),
    (
        "gemma3",
        "Gemma3TextConfig",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 32,
            "num_hidden_layers": 7,
        },
    ),
    ("phi3", "Phi3Config", {"sliding_window": None, "original_max_position_embeddings": 512}),
    (
        "phi3, long rope",
        "Phi3Config",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "long_factor": [1.0 + 0.1 * k for k in range(16)],
                "short_factor": [1.0] * 16,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    ("gpt2", "GPT2Config", GPT2),
]


def main() -> None:
    """Run every architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    failed = False
    print("| architecture | KL | same first choice | largest difference |")
    print("|---|---|---|---|")
    for name, kind, values in CASES:
        if args.only not in name:
            continue
        good, line = one(args.work, args.python, kind=kind, values=values)
        failed = failed or not good
        print(f"| {name} | {line} |", flush=True)
    sys.exit(failed)


def one(work: Path, python: str, *, kind: str, values: dict[str, Any]) -> tuple[bool, str]:
    """Write one model and let both run it."""
    import numpy as np
    import torch
    import transformers

    from autoround.errors import AutoRoundError

    torch.manual_seed(0)
    config = getattr(transformers, kind)(**({} if kind == "GPT2Config" else COMMON) | values)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    for tensor_name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms of one and biases of zero would hide mistakes
            torch.nn.init.normal_(parameter, 0.0 if "bias" in tensor_name else 1.0, 0.2)
    file = work / "model.gguf"
    try:
        write_plain(model, file)
    except AutoRoundError as error:
        return False, f"refused: {error} | |"
    ids = np.random.default_rng(0).integers(3, VOCABULARY, size=(2, 96))
    np.save(work / "ids.npy", ids)
    script = Path(__file__).with_name("gguf_read.py")
    command = [python, str(script), "--model", str(file), "--tokens", str(work / "ids.npy")]
    done = subprocess.run(
        [*command, "--out", str(work / "logits.npy")], capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return False, f"failed: {reason[:160]} | |"
    theirs = torch.from_numpy(np.load(work / "logits.npy"))
    with torch.no_grad():
        ours = model(input_ids=torch.from_numpy(ids)).logits
    theirs = theirs[..., : ours.shape[-1]]
    log_ours, log_theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    kl = float((log_ours.exp() * (log_ours - log_theirs)).sum(-1).mean())
    same = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    spread = float(ours.std())
    worst = float((ours - theirs).abs().max())
    line = f"{kl:.5f} | {100 * same:.1f} % | {worst:.3f} (deviation of the logits {spread:.2f})"
    return kl <= 1e-5, line


def write_plain(model: Any, path: Path) -> None:
    """Write a model without rounding anything."""
    from autoround.export.gguf_writer import gguf_fields
    from autoround.gguf import arch
    from autoround.gguf.container import Container
    from autoround.model.skeleton import adopt_model
    from autoround.planning.gguf_tensors import gguf_layout
    from autoround.types import OutputPlan

    skeleton = adopt_model(model)
    layout = gguf_layout(skeleton, OutputPlan("gguf:q8_0", "gguf:q8_0", "float32"))
    container = Container(
        path,
        [(target.name, target.shape, "f32") for target, _ in layout.tensors],
        arch=arch.architecture(skeleton.config.to_dict()),
        fields=gguf_fields(skeleton, None, model="random", file_type="f32"),
    )
    for target, _ in layout.tensors:
        tensors = list(skeleton.read(target.sources).values())
        container.add(target.name, arch.apply(target, tensors).float())
    container.finish()


if __name__ == "__main__":
    main()
