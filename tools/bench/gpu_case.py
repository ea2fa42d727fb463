"""What the rows of gpu.py share: shapes of models, samples, and how a worker is run."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: What the models are made with, but for the number of blocks.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "vocab_size": 32768,
    },
    # Three blocks of linear attention, then one of the usual kind; experts left out.
    "qwen3-next-dense": {
        "model_type": "qwen3_next",
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "num_experts": 0,
        "vocab_size": 32768,
    },
    "tiny": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    },
    "tiny-mixture": {
        "model_type": "qwen3_moe",
        "hidden_size": 64,
        "moe_intermediate_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "vocab_size": 128,
    },
    "tiny-hybrid": {
        "model_type": "qwen3_next",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "num_experts": 0,
        "vocab_size": 128,
    },
}
#: Blocks of the models that are extrapolated to.
WHOLE = {"qwen3-30b-a3b": 48, "qwen3-next-dense": 48}


@dataclass(frozen=True)
class Case:
    """What every row of a file does. steps: 0 for what the recipe says."""

    shape: str
    blocks: int
    nsamples: int
    seqlen: int
    batch: int
    group: int
    device: str
    recipe: str
    steps: int = 0

    @property
    def whole(self) -> int:
        """Blocks of the model that is extrapolated to."""
        return WHOLE.get(self.shape, 32)


def make_model(case: Case, folder: Path) -> None:
    """Write a model with random weights and a tokenizer that nothing is read by."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    options = dict(SHAPES[case.shape])
    config = AutoConfig.for_model(
        options.pop("model_type"),
        **options,
        num_hidden_layers=case.blocks,
        max_position_embeddings=max(case.seqlen, 64),
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.device(case.device):  # a processor would draw a minute
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    vocabulary = {f"t{number}": number for number in range(SHAPES[case.shape]["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t2"))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="t0", eos_token="t1", unk_token="t2", pad_token="t3"
    )
    fast.save_pretrained(folder)


def make_tokens(case: Case, place: Path) -> None:
    """Draw the samples."""
    import numpy as np

    drawn = np.random.default_rng(0).integers(
        4, SHAPES[case.shape]["vocab_size"], size=(case.nsamples, case.seqlen)
    )
    np.save(place, drawn)


def call(worker: str, job: dict[str, Any], folder: Path, python: str) -> dict[str, Any]:
    """Run a worker to its end and return its figures.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    place = folder / "job.json"
    place.write_text(json.dumps(job), "utf-8")
    figures = place.with_suffix(".figures.json")
    figures.unlink(missing_ok=True)
    done = subprocess.run(
        [python, str(HERE / worker), str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode or not figures.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise RuntimeError(f"{worker} ended with {done.returncode}: {' | '.join(said)}")
    found: dict[str, Any] = json.loads(figures.read_text("utf-8"))
    return found
