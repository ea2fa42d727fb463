"""Which learning rate experts want, that no GPTQ initialises: small mixtures of random weights.

    python tools/bench/expert_rates.py

Rates are those of a step from the nearest level times a factor: 0.2 is what layers have that GPTQ
initialised. Held-out KL divergence and losses of the blocks, for each of two seeds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from autoround import api
from autoround.planning import hyperparameters
from autoround.recipe.load import load_recipe

FACTORS, SAMPLES, BITS, SEEDS = (0.2, 0.5, 1.0), (64, 256), (4, 3), (0, 1)
TOKENS = 64
COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


def make_model(kind: str, seed: int) -> Any:
    """Make a mixture whose weights have tails."""
    torch.manual_seed(seed)
    config: Any
    if kind == "qwen3_moe":
        widths: dict[str, Any] = {"head_dim": 32, "num_experts": 16, "num_experts_per_tok": 4}
        config = transformers.Qwen3MoeConfig(
            **COMMON, **widths, moe_intermediate_size=64, intermediate_size=256
        )
    else:
        widths = {"intermediate_size": 128, "num_local_experts": 8, "num_experts_per_tok": 2}
        config = transformers.MixtralConfig(**COMMON, **widths)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(torch.randn_like(parameter).abs().sqrt() * 2)
    return model


def draw(rows: int, seed: int) -> torch.Tensor:
    """Draw tokens, int64 [rows, TOKENS]."""
    return torch.randint(3, 500, (rows, TOKENS), generator=torch.Generator().manual_seed(seed))


def measure(kind: str, bits: int, samples: int, seed: int) -> tuple[float, float]:
    """Quantize one model; returns the KL divergence on other tokens, and the blocks' losses."""
    model = make_model(kind, seed)
    values = {
        "scheme.bits": bits,
        "scheme.group_size": 32,
        "tuning.iters": 100,
        "calibration.nsamples": samples,
        "calibration.seqlen": TOKENS,
        "output.format": "fake",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        recipe = load_recipe("default", values=values)
        data = draw(samples, 1 + seed).tolist()
        result = api.quantize(model, recipe, output_dir=out, data=data, device="cpu")
        loaded: Any = transformers.AutoModelForCausalLM
        after = loaded.from_pretrained(out, dtype=torch.float32).eval()
        tokens = draw(64, 9)
        with torch.no_grad():
            wanted, output = (m(tokens).logits.log_softmax(-1) for m in (model, after))
        kl = float((wanted.exp() * (wanted - output)).sum(-1).mean())
    return kl, sum(block.loss_after for block in result.blocks)


def main() -> int:
    """Print a line for each kind, number of samples and width."""
    for kind in ("qwen3_moe", "mixtral"):
        for samples in SAMPLES:
            for bits in BITS:
                cells = []
                for factor in FACTORS:
                    hyperparameters.TRAVEL = factor
                    each = [measure(kind, bits, samples, seed) for seed in SEEDS]
                    kls = ", ".join(f"{kl:.6f}" for kl, _ in each)
                    cells.append(f"{factor}: KL {kls}, loss {sum(x for _, x in each):.3e}")
                print(f"{kind}, {samples} samples, {bits} bits: {'; '.join(cells)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
