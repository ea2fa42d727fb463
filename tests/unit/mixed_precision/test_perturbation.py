"""What rounding a module does to the loss, against the same in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoround.core.sensitivity import SPAN
from autoround.mixed_precision.perturbation import (
    Perturbation,
    ScoredModule,
    accumulate_effects,
)
from autoround.types import LayerPlan, Scheme

W2 = Scheme(2, 32, True)
BATCH, SEQ, WIDTH, COUNT = 2, 20, 6, 3


class Experts(nn.Module):
    """Every expert sees every token; the second matrix comes after something not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(COUNT, 8, WIDTH))
        self.down = nn.Parameter(torch.randn(COUNT, WIDTH, 8))
        self.scale = nn.Parameter(torch.randn(WIDTH))

    def forward(self, hidden: Tensor, *, factor: float) -> Tensor:
        inner = torch.einsum("bsw,erw->ebsr", hidden, self.up).tanh()
        return factor * self.scale * torch.einsum("ebsr,ewr->bsw", inner, self.down)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.experts = Experts()
        self.last = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.last(self.experts(self.first(hidden), factor=0.5).sigmoid())
        return out


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block()


def linear(path: str, *, transposed: bool = False) -> ScoredModule:
    layer = LayerPlan(f"b.{path}", (WIDTH, WIDTH), None, transposed=transposed, block="b")
    return ScoredModule(layer.name, path, (layer,), (W2,))


def experts() -> ScoredModule:
    shapes = {"up": (COUNT * 8, WIDTH), "down": (COUNT * WIDTH, 8)}
    layers = tuple(
        LayerPlan(f"b.experts.{name}", shape, None, experts=COUNT, block="b")
        for name, shape in shapes.items()
    )
    return ScoredModule("b.experts", "experts", layers, (W2,))


def changed(block: Block, module: ScoredModule) -> Perturbation:
    """Round a module: move its weights a little."""
    held = dict(block.named_parameters())
    rounded = {}
    for layer in module.layers:
        weight = held[layer.param].detach().reshape(layer.shape)
        rounded[layer.name] = weight + 0.1 * torch.randn(layer.shape)
    return Perturbation(module, W2, rounded)


def run(block: Block, perturbations: list[Perturbation], hidden: Tensor) -> None:
    tensors = {name: p.detach() for name, p in block.named_parameters()}
    with accumulate_effects(block, perturbations, tensors=tensors):
        block(hidden.clone().requires_grad_()).square().sum().backward()


def wanted(grad: Tensor, change: Tensor) -> float:
    products = (grad.double() * change.double()).sum(-1).numpy()
    spans = [products[:, start : start + SPAN].sum(-1) for start in range(0, SEQ, SPAN)]
    return float((np.array(spans) ** 2).sum())


def gradients(block: Block, hidden: Tensor, path: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first input of a module, its output, and the loss's gradient for that."""
    seen: list[Tensor] = []
    module = block.get_submodule(path)
    handle = module.register_forward_hook(lambda m, args, out: seen.extend((args[0], out)))
    loss = block(hidden.clone().requires_grad_()).square().sum()
    handle.remove()
    inputs, out = seen
    return inputs.detach(), out.detach(), torch.autograd.grad(loss, out)[0]


@pytest.mark.parametrize("path", ["first", "last"])
def test_of_a_linear_layer_it_is_the_change_times_its_inputs(block: Block, path: str) -> None:
    hidden = torch.randn(BATCH, SEQ, WIDTH)
    one = changed(block, linear(path))
    run(block, [one], hidden)
    inputs, _, grad = gradients(block, hidden, path)
    weight = block.get_parameter(f"{path}.weight").detach().double()
    change = inputs.double() @ (one.rounded[f"b.{path}"].double() - weight).t()
    assert one.total == pytest.approx(wanted(grad, change), rel=1e-4)
    assert one.calls == 1


def test_a_weight_that_is_stored_turned_has_the_same_effect(block: Block) -> None:
    hidden = torch.randn(BATCH, SEQ, WIDTH)
    plain = changed(block, linear("last"))
    turned = Perturbation(linear("last", transposed=True), W2, plain.rounded)
    run(block, [plain], hidden)
    tensors = {name: p.detach() for name, p in block.named_parameters()}
    tensors["last.weight"] = tensors["last.weight"].t()
    with accumulate_effects(block, [turned], tensors=tensors):
        block(hidden.clone().requires_grad_()).square().sum().backward()
    assert turned.total == pytest.approx(plain.total)


def test_experts_are_run_again_with_all_their_rounded_weights(block: Block) -> None:
    hidden = torch.randn(BATCH, SEQ, WIDTH)
    one = changed(block, experts())
    run(block, [one], hidden)
    inputs, out, grad = gradients(block, hidden, "experts")
    with torch.no_grad():
        block.experts.up.copy_(one.rounded["b.experts.up"].reshape(COUNT, 8, WIDTH))
        block.experts.down.copy_(one.rounded["b.experts.down"].reshape(COUNT, WIDTH, 8))
        again = block.experts(inputs, factor=0.5)
    assert one.total == pytest.approx(wanted(grad, again - out), rel=1e-4)


def test_effects_add_up_over_batches_and_options_are_kept_apart(block: Block) -> None:
    parts = [torch.randn(BATCH, SEQ, WIDTH) for _ in range(2)]
    both = [changed(block, linear("first")), changed(block, linear("first"))]
    other = changed(block, experts())
    totals = []
    for hidden in parts:
        for one in (*both, other):
            one.total = 0.0
        run(block, [*both, other], hidden)
        totals.append([one.total for one in (*both, other)])
    for one in (*both, other):
        one.total, one.calls = 0.0, 0
    for hidden in parts:
        run(block, [*both, other], hidden)
    for number, one in enumerate((*both, other)):
        assert one.total == pytest.approx(totals[0][number] + totals[1][number])
        assert one.calls == 2
    assert both[0].total != both[1].total


def test_nothing_is_added_without_gradients_or_after_the_end(block: Block) -> None:
    one = changed(block, linear("first"))
    hidden = torch.randn(BATCH, SEQ, WIDTH)
    tensors = {name: p.detach() for name, p in block.named_parameters()}
    with accumulate_effects(block, [one], tensors=tensors), torch.no_grad():
        block(hidden)
    block(hidden).sum().backward()
    assert (one.total, one.calls) == (0.0, 0)


def test_no_hook_stays_where_the_block_fails(block: Block) -> None:
    one = changed(block, linear("first"))

    def fail() -> None:
        with accumulate_effects(block, [one], tensors={}):
            raise RuntimeError("no memory")

    call: Callable[[], None] = fail
    with pytest.raises(RuntimeError, match="no memory"):
        call()
    block(torch.randn(BATCH, SEQ, WIDTH)).sum().backward()
    assert one.calls == 0
