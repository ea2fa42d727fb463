"""Speed of a model, in tokens a second of prefill and decode, and its memory."""

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
from autoround.errors import ModelError, UsageError
from autoround.evaluate.models import load_any, load_runnable
from autoround.inference.kernels import quant_layers
from autoround.model.positions import position_limit

#: Runs of each measurement; the fastest counts.
RUNS = 3
#: Seconds that a clock which was set back is taken for.
SHORTEST = 1e-9
#: Dtypes that an unquantized model is measured in.
DENSE_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Rates:
    """Speed and memory of one model.

    Attributes:
        model: Its name.
        dtype: Of its activations.
        kernels: Names of the kernels of packed layers, with their number of layers.
        prefill: Tokens a second of a prompt that is processed at once.
        decode: Tokens a second of generation, batch size 1.
        weight_bytes: Bytes of all parameters and buffers.
        peak_bytes: Peak memory in bytes so far: of the process on a CPU, of the device elsewhere.
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
    """Measure a model folder, and the unquantized one in its fastest dtype.

    Args:
        model: Folder or hub id of the model.
        original: Folder or hub id of the unquantized model; None to measure one model alone.
        device: Name of a device, or ``auto``.
        backend: Name of the kernel for packed layers, or ``auto``.
        prompt_tokens: Length of the prompt.
        new_tokens: Number of generated tokens.

    Returns:
        Rates of the model, and of the original if there is one.

    Raises:
        ModelError: A model cannot be loaded.
        FormatError: The packed layers cannot be read.
        DeviceError: The device is not there.
        UsageError: The model has too few positions, or no kernel has the name.
    """
    lengths = (prompt_tokens, new_tokens)
    measured = [
        rates(load_runnable(model, device=device, backend=backend), str(model), device, lengths)
    ]
    if original is not None:
        dense = []
        for dtype in DENSE_DTYPES:
            loaded = load_any(original, device=device, dtype=dtype)
            dense.append(rates(loaded, str(original), device, lengths))
            # Two copies of an unquantized model may not fit.
            del loaded
        measured.append(max(dense, key=lambda r: r.decode))
    return measured


@torch.no_grad()
def rates(model: Any, name: str, device: str, lengths: tuple[int, int]) -> Rates:
    """Measure one loaded model.

    Args:
        model: A causal language model of transformers, on its device.
        name: What the result calls it.
        device: Name of the device whose runtime measures.
        lengths: Tokens of the prompt, and generated tokens.

    Raises:
        UsageError: The model has too few positions.
        ModelError: It keeps no cache.
    """
    prompt_tokens, new_tokens = lengths
    limit = position_limit(model)
    if limit is not None and prompt_tokens + new_tokens > limit:
        raise UsageError(
            f"{prompt_tokens} prompt and {new_tokens} new tokens, and the model has positions for "
            f"{limit} only; ask for fewer"
        )
    runtime = open_device(device)
    rng = torch.Generator().manual_seed(0)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(0, vocabulary, (1, prompt_tokens), generator=rng).to(model.device)
    prefill = decode = float("inf")
    # The first call prepares kernels, which is not part of the speed.
    model(input_ids=ids[:, :2], use_cache=True)
    for _ in range(RUNS):
        # Devices run asynchronously: without waiting, only the launch would be timed.
        runtime.synchronize()
        started = time.perf_counter()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        runtime.synchronize()
        prefill = min(prefill, time.perf_counter() - started)
        started = time.perf_counter()
        for _ in range(new_tokens):
            next_token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=next_token, use_cache=True, **cache_of(out))
        runtime.synchronize()
        decode = min(decode, time.perf_counter() - started)
    names = Counter(layer.kernel for _, layer in quant_layers(model))
    return Rates(
        name,
        str(model.dtype).removeprefix("torch."),
        ", ".join(f"{kernel} ({count})" for kernel, count in names.items()) or "unquantized",
        prompt_tokens / max(prefill, SHORTEST),
        new_tokens / max(decode, SHORTEST),
        weight_bytes(model),
        runtime.peak_bytes(),
    )


def cache_of(output: Any) -> dict[str, Any]:
    """Return what a model remembers of the tokens before, as the argument that it takes it by.

    transformers calls it ``cache`` since 5.24, and takes the two older names until 5.40.

    Args:
        output: of a call of the model with ``use_cache``.

    Raises:
        ModelError: it remembers nothing.
    """
    for name in ("cache", "past_key_values", "cache_params"):
        cache = getattr(output, name, None)
        if cache is not None:
            return {name: cache}
    raise ModelError(
        f"the model keeps no cache of the tokens before ({type(output).__name__} has none), so "
        "decoding cannot be measured"
    )


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers; shared storage counts once."""
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())
