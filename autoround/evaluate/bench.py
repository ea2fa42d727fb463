"""How fast a model answers: tokens a second of reading a prompt and of writing, and memory."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoround.device.kernels import AUTO
from autoround.device.registry import open_device
from autoround.errors import UsageError
from autoround.evaluate.models import load_any, load_runnable
from autoround.inference.kernels import quant_layers
from autoround.model.positions import position_limit

#: Turns of each measurement; the quickest counts.
TURNS = 3
#: Dtypes that an unquantized model is tried in.
DENSE_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Rates:
    """What a model does: tokens a second, and bytes.

    prefill: of a prompt read at once. decode: one token after the other, batch 1.
    weight_bytes: all parameters and buffers. peak_bytes: the most in use so far, of the
        process on a CPU and of the device elsewhere.
    """

    model: str
    dtype: str
    kernels: str
    prefill: float
    decode: float
    weight_bytes: int
    peak_bytes: int


def bench(
    model: str | Path,
    original: str | Path | None = None,
    *,
    device: str = "auto",
    backend: str = AUTO,
    prompt_tokens: int = 256,
    new_tokens: int = 64,
) -> list[Rates]:
    """Measure a model folder, and the 16-bit one beside it in its fastest dtype.

    Raises:
        ModelError, FormatError, DeviceError: a model cannot be loaded.
        UsageError: it has too few positions, or no kernel is named so.
    """
    lengths = (prompt_tokens, new_tokens)
    found = [
        rates(load_runnable(model, device=device, backend=backend), str(model), device, lengths)
    ]
    if original is not None:
        dense = []
        for dtype in DENSE_DTYPES:
            loaded = load_any(original, device=device, dtype=dtype)
            dense.append(rates(loaded, str(original), device, lengths))
            del loaded
        found.append(max(dense, key=lambda r: r.decode))
    return found


@torch.no_grad()
def rates(model: Any, name: str, device: str, lengths: tuple[int, int]) -> Rates:
    """Measure one loaded model; lengths: of the prompt and of what is written."""
    prompt_tokens, new_tokens = lengths
    limit = position_limit(model)
    if limit is not None and prompt_tokens + new_tokens > limit:
        raise UsageError(
            f"{prompt_tokens} and {new_tokens} tokens, and the model has positions for {limit} only"
        )
    runtime = open_device(device)
    rng = torch.Generator().manual_seed(0)
    top = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(0, top, (1, prompt_tokens), generator=rng).to(model.device)
    prefill = decode = float("inf")
    model(input_ids=ids[:, :2], use_cache=True)
    for _ in range(TURNS):
        runtime.synchronize()
        started = time.perf_counter()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        runtime.synchronize()
        prefill = min(prefill, time.perf_counter() - started)
        started = time.perf_counter()
        for _ in range(new_tokens):
            following = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=following, past_key_values=out.past_key_values, use_cache=True)
        runtime.synchronize()
        decode = min(decode, time.perf_counter() - started)
    names = Counter(layer.kernel for _, layer in quant_layers(model))
    return Rates(
        name,
        str(model.dtype).removeprefix("torch."),
        ", ".join(f"{kernel} ({count})" for kernel, count in names.items()) or "unquantized",
        prompt_tokens / prefill,
        new_tokens / decode,
        weight_bytes(model),
        runtime.peak_bytes(),
    )


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers, those that are shared once."""
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())
