"""Let auto-round tune a tiny model, and keep its codes for the tests.

    VENV/bin/python tools/clients/golden_signround.py tests/golden/signround.safetensors

Runs in an environment with the package ``auto-round`` and needs nothing of this project. The
model and its tokens come from integers of a generator that NumPy has frozen, so that they are the
same numbers everywhere. There are as many samples as a batch has: every step sees all of them,
and no order of drawing matters. The iterate that is kept is the last one that auto-round offers
(``not_use_best_mse``): the one before its last step.

The file holds ``CASE/LAYER``, codes uint8 [out, in] whose bits are packed, eight codes in as many
bytes as one has bits; the metadata says what each case is and which version wrote it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SAMPLES, SEQLEN, GROUP = 8, 32, 32
#: Of the tokens: the last one is what auto-round takes for padding, which no text has.
VOCAB = 96
#: Bits, whether symmetric, steps.
CASES = [(bits, sym, 20) for bits in (4, 3, 2) for sym in (True, False)]
#: Of offsets and of both factors: what auto-round works out for its 200 steps, and gives to the 50
#: of its light recipe. At larger ones the last bits of sums decide the course of few steps.
LR = 1 / 200


def case_name(bits: int, sym: bool, steps: int) -> str:
    """Return what the tensors of a case begin with."""
    return f"w{bits}{'s' if sym else 'a'}{steps}"


def tiny_llama() -> LlamaForCausalLM:
    """Make the model: two blocks, 64 wide, in float32; equal numbers on every machine."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=VOCAB - 1,
        tie_word_embeddings=True,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config).float().eval()
    draw = np.random.RandomState(2309)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 2:
                # Sums of four are near enough to a normal distribution, and exact in float32.
                parts = draw.randint(-(2**20), 2**20, (4, *parameter.shape))
                spread = 2**-20 if "embed" in name else 2**-20 * parameter.shape[1] ** -0.5
                parameter.copy_(torch.from_numpy(parts.sum(0)).float() * spread)
    return model


def token_ids() -> Tensor:
    """Draw the samples, int64 [8, 32]; no token follows itself."""
    draw = np.random.RandomState(5516)
    steps = draw.randint(1, VOCAB - 1, (SAMPLES, SEQLEN))
    return torch.from_numpy(steps.cumsum(1) % (VOCAB - 1)).long()


def tokenizer() -> Any:
    """Make a tokenizer that auto-round asks for the padding token, and for nothing else."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{n}": n for n in range(VOCAB)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=f"t{VOCAB - 1}")


def pack(codes: Tensor, bits: int) -> Tensor:
    """Keep the low bits of codes, the lowest first, eight to a byte."""
    shifts = torch.arange(bits, dtype=torch.uint8)
    each = (codes.reshape(-1, 1).to(torch.uint8) >> shifts) & 1
    return torch.from_numpy(np.packbits(each.numpy().reshape(-1), bitorder="little"))


def unpack(words: Tensor, bits: int, *, shape: tuple[int, int]) -> Tensor:
    """Undo :func:`pack`."""
    each = np.unpackbits(words.numpy(), bitorder="little")[: shape[0] * shape[1] * bits]
    values = each.reshape(-1, bits) << np.arange(bits, dtype=np.uint8)
    return torch.from_numpy(values.sum(-1, dtype=np.uint8)).reshape(shape)


def quantize(bits: int, sym: bool, steps: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and codes of all layers as auto-round leaves them."""
    quantizer = import_module("auto_round").AutoRound(
        tiny_llama(),
        tokenizer(),
        bits=bits,
        group_size=GROUP,
        sym=sym,
        iters=steps,
        lr=LR,
        nsamples=SAMPLES,
        seqlen=SEQLEN,
        batch_size=SAMPLES,
        dataset=[row[None] for row in token_ids()],
        seed=42,
        amp=False,
        not_use_best_mse=True,
        enable_torch_compile=False,
        device_map="cpu",
    )
    model, _ = quantizer.quantize()
    for name, layer in model.named_modules():
        if not hasattr(layer, "scale"):
            continue
        scale = layer.scale.float()
        zero = layer.zp.float() if isinstance(layer.zp, Tensor) else torch.tensor(layer.zp).float()
        zero = zero.expand_as(scale).repeat_interleave(GROUP, dim=1)
        weight = layer.weight.detach().float()
        exact = weight / scale.repeat_interleave(GROUP, dim=1) + zero
        codes = exact.round()
        assert float((codes - exact).abs().max()) < 1e-3, f"{name} is on no grid"
        yield name, codes.to(torch.uint8)


def main() -> None:
    """Save the codes of all cases."""
    torch.set_num_threads(1)
    tensors = {
        f"{case_name(*case)}/{name}": pack(codes, case[0])
        for case in CASES
        for name, codes in quantize(*case)
    }
    cases = {case_name(b, s, n): {"bits": b, "sym": s, "steps": n} for b, s, n in CASES}
    metadata = {"cases": json.dumps(cases), "auto-round": version("auto-round")}
    save_file(tensors, sys.argv[1], metadata)


if __name__ == "__main__":
    main()
