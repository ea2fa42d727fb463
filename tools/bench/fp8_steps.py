"""Compare tuning steps in emulated FP8 with those in 16 bit, at equal steps, on a processor.

    python tools/bench/fp8_steps.py --model FOLDER [--blocks 2] [--steps 24] [--bits 4 3 2]

Operands of a layer's forward product and of its input's gradient are rounded as an accelerator's
product in FP8 has them: e4m3, a scale for each run of 128 along the sum. Levels of up to 4 bits are
exact in e4m3 under their groups' own scales, so rounded weights lose nothing in the forward
product; their gradient product sums over outputs, where they are rounded anew. Sums, gradients of
weights, attention and norms are as ever. Printed are a block's losses before and after its steps.

What decides is the loss at the end, not how far gradients are apart: one line of JSON a block.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pydoc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autoround.device.registry import open_device
from autoround.model.skeleton import adopt_model
from autoround.pipeline import quantize_pass
from autoround.preparation import Request, open_session, prepare
from autoround.recipe.load import load_recipe
from autoround.session.block_output import BlockOutput

#: Elements along a sum that share a scale.
RUN = 128
#: The largest number of e4m3.
LARGEST = 448.0
SAMPLES, SEQLEN, BATCH = 32, 128, 4


def round_to_e4m3(values: Tensor) -> Tensor:
    """Round to e4m3, a float32 scale for each run along the last axis.

    Args:
        values: [..., n], any float dtype; the last run may be shorter.

    Returns:
        The rounded values in the same shape and dtype.
    """
    count = values.shape[-1]
    runs = torch.nn.functional.pad(values.float(), (0, -count % RUN)).unflatten(-1, (-1, RUN))
    scale = runs.abs().amax(-1, keepdim=True).clamp_min(1e-12) / LARGEST
    rounded = (runs / scale).to(torch.float8_e4m3fn).float() * scale
    whole: Tensor = rounded.flatten(-2)[..., :count].to(values.dtype)
    return whole


class Fp8Linear(torch.autograd.Function):
    """A linear layer whose forward product and input's gradient have operands in e4m3."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply rounded inputs with a weight whose levels are exact."""
        ctx.save_for_backward(x, weight)
        return round_to_e4m3(x) @ weight.t()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input's gradient from rounded operands, the weight's from whole ones."""
        x, weight = ctx.saved_tensors
        by_output = round_to_e4m3(weight.t().contiguous()).t()
        flat = grad.flatten(0, -2)
        return round_to_e4m3(grad) @ by_output, flat.t() @ x.flatten(0, -2)


@contextmanager
def fp8_steps() -> Iterator[None]:
    """Compute linear layers in emulated FP8 where gradients are wanted: in steps, not in scores."""
    linear = torch.nn.functional.linear

    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return linear(x, weight, bias)
        out: Tensor = Fp8Linear.apply(x, weight)  # type: ignore[no-untyped-call]
        return out if bias is None else out + bias

    torch.nn.functional.linear = multiply  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.nn.functional.linear = linear


def draw_samples(folder: str, seed: int) -> Tensor:
    """Return token ids [SAMPLES, SEQLEN] of Python's own documentation."""
    from transformers import AutoTokenizer

    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    text = "\n".join([*(topics[name] for name in sorted(topics)), pydoc.__doc__ or ""])
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
    rows = ids[: len(ids) // SEQLEN * SEQLEN].view(-1, SEQLEN)
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:SAMPLES]]


def tune_blocks(options: argparse.Namespace, bits: int, seed: int, *, fp8: bool) -> list[Any]:
    """Tune the first blocks of a model; returns what is known of each."""
    from transformers import AutoModelForCausalLM

    recipe = load_recipe(
        "default",
        overrides=[
            *(f"scheme.bits={bits}", "scheme.group_size=64", f"seed={seed}"),
            *(f"tuning.iters={options.steps}", f"tuning.batch_size={BATCH}"),
            *("tuning.init_rounding=nearest", "tuning.init_scale=minmax", "tuning.compile=false"),
            *("tuning.num_validations=3", f"tuning.validation_samples={SAMPLES // 2}"),
            f"calibration.seqlen={SEQLEN}",
            *(f"tuning.compute_dtype={options.dtype}", f"calibration.nsamples={SAMPLES}"),
        ],
    )
    dtype = getattr(torch, options.dtype)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=dtype, num_hidden_layers=options.blocks
    ).eval()
    data = draw_samples(options.model, seed)
    request = Request(adopt_model(model), recipe, open_device("cpu"), "model", None, data)
    session = open_session(prepare(request, sink=lambda event: None), sink=lambda event: None)
    outputs: list[BlockOutput] = []
    if fp8:
        with fp8_steps():
            quantize_pass(session, outputs.append)
    else:
        quantize_pass(session, outputs.append)
    return [output.result for output in outputs if output.result.kind == "block"]


def main() -> None:
    """Tune in both ways, and print a line of JSON for each block and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", required=True, help="folder of a model in 16 bit")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options = parser.parse_args()
    for seed in options.seeds:
        for bits in options.bits:
            for fp8 in (False, True):
                for block in tune_blocks(options, bits, seed, fp8=fp8):
                    row = {"bits": bits, "seed": seed, "fp8": fp8, "block": block.index}
                    row |= {"before": block.loss_before, "after": block.loss_after}
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
