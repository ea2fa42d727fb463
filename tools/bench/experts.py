"""Time one tuning step of a block with many experts: stacked, and expert by expert.

    OMP_NUM_THREADS=2 .venv/bin/python tools/bench/experts.py [--experts 64]

The block, its tokens, the number of steps and the mathematics are the same. ``stacked`` is what
a run does: one fake-quantize over all experts and the model's grouped product. ``one by one``
rounds each expert's matrices by themselves and goes through the experts in a loop, as programs do
that turn experts into linear layers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM

from autoround.core.grids.grid import from_groups, min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.rounding import initial_rounding
from autoround.device.registry import open_device

STACKED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def make_block(experts: int) -> torch.nn.Module:
    """Build one block shaped like Qwen3-30B-A3B's, at a quarter of its width."""
    config = AutoConfig.for_model(
        "qwen3_moe", hidden_size=512, moe_intermediate_size=192, num_experts=experts,
        num_experts_per_tok=8, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=2,
        head_dim=64, vocab_size=512,
    )  # fmt: skip
    torch.manual_seed(0)
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config)
    return model


def step(model: torch.nn.Module, ids: Tensor, apart: int) -> Callable[[], None]:
    """Return a step: round the experts' weights, run the model, and its gradients.

    apart: into how many tensors each stacked weight is cut for rounding.
    """
    ops = open_device("cpu").ops
    block = "model.layers.0."
    pieces: dict[str, list[tuple[Tensor, object, object, tuple[int, ...]]]] = {}
    for name in STACKED:
        weight = model.get_parameter(block + name).detach()
        pieces[name] = []
        for part in weight.chunk(apart):
            groups = to_groups(part, 64)
            rounding = initial_rounding(groups)
            for tensor in rounding:
                tensor.requires_grad_()
            grid = min_max_grid(groups, integer_levels(4, sym=True))
            pieces[name].append((groups, rounding, grid, tuple(part.shape)))

    def rounded(name: str) -> list[Tensor]:
        return [
            from_groups(ops.fake_quantize(g, r, grid=grid, dtype=torch.float32), shape)  # type: ignore[arg-type]
            for g, r, grid, shape in pieces[name]
        ]

    experts = model.get_submodule(block + "mlp.experts")

    def loop(hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        up, down = (rounded(name) for name in STACKED)
        out = torch.zeros_like(hidden)
        for expert in range(apart):
            token, place = (chosen == expert).nonzero(as_tuple=True)
            if not len(token):
                continue
            gate, value = torch.nn.functional.linear(hidden[token], up[expert][0]).chunk(2, -1)
            inner = torch.nn.functional.silu(gate) * value
            found = torch.nn.functional.linear(inner, down[expert][0])
            out = out.index_add(0, token, found * weights[token, place, None])
        return out

    params = [t for parts in pieces.values() for _, r, _, _ in parts for t in r]  # type: ignore[attr-defined]

    def run() -> None:
        if apart > 1:
            experts.forward = loop
            out = model(ids).logits
        else:
            experts.__dict__.pop("forward", None)
            own = {block + name: rounded(name)[0] for name in STACKED}
            out = functional_call(model, own, (ids,)).logits
        torch.autograd.grad(out.square().mean(), params, allow_unused=True)

    return run


def seconds(run: Callable[[], None], times: int) -> float:
    """Return the median time of a call, after two that warm up."""
    found = []
    for number in range(times + 2):
        start = time.perf_counter()
        run()
        if number > 1:
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def main() -> None:
    """Print the two times and their quotient."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=7)
    given = parser.parse_args()
    model = make_block(given.experts)
    ids = torch.randint(0, 512, (4, given.tokens // 4))
    apart = seconds(step(model, ids, given.experts), given.steps)
    stacked = seconds(step(model, ids, 1), given.steps)
    print(
        f"{given.experts} experts, {given.tokens} tokens, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}: one by one {apart * 1e3:.0f} ms, "
        f"stacked {stacked * 1e3:.0f} ms a step, {apart / stacked:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
