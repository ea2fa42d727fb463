from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoround.model.importance import Importance, accumulate_importance
from autoround_backends.cpu import CpuRuntime

from ...tiny import HIDDEN, TinyBlock


def activations(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_it_is_the_sum_of_squares_of_every_channel() -> None:
    first, second = activations(2, 3, 8), activations(1, 5, 8)
    importance = Importance()
    importance.add("a", first)
    importance.add("a", second)
    tokens = torch.cat([first.reshape(-1, 8), second.reshape(-1, 8)])
    expected = torch.stack([(tokens[:, i] ** 2).sum() for i in range(8)])
    got = importance.get("a")
    assert got is not None
    torch.testing.assert_close(got, expected)
    # Over the number of tokens it is the mean square, in the same proportions.
    torch.testing.assert_close(got / len(tokens), tokens.square().mean(0))


def test_a_layer_that_never_ran_has_none() -> None:
    importance = Importance()
    importance.add("a", activations(2, 4))
    assert importance.get("b") is None


def test_layers_are_kept_apart() -> None:
    importance = Importance()
    importance.add("a", torch.ones(2, 4))
    importance.add("b", torch.full((2, 6), 3.0))
    a, b = importance.get("a"), importance.get("b")
    assert a is not None
    assert b is not None
    assert a.tolist() == [2.0] * 4
    assert b.tolist() == [18.0] * 6


def test_masked_positions_do_not_count() -> None:
    x = activations(2, 4, 8)
    mask = torch.tensor([[True, True, False, False], [True, False, True, True]])
    importance = Importance()
    importance.mask(mask)
    importance.add("a", x)
    importance.mask(None)
    importance.add("b", x)
    a, b = importance.get("a"), importance.get("b")
    assert a is not None
    assert b is not None
    torch.testing.assert_close(a, x[mask].square().sum(0))
    torch.testing.assert_close(b, x.square().sum((0, 1)))


def test_sums_are_float32_whatever_the_activations() -> None:
    importance = Importance()
    for _ in range(2):
        # 300 squared overflows float16.
        importance.add("a", torch.full((4, 2), 300.0, dtype=torch.float16))
    got = importance.get("a")
    assert got is not None
    assert got.dtype == torch.float32
    assert got.tolist() == [8 * 300.0**2] * 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyBlock()
        self.last = nn.Linear(HIDDEN, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.inner(hidden)))
        return out


def test_accumulate_importance_sees_the_inputs_of_each_layer() -> None:
    block, x = Block(), activations(2, 3, HIDDEN).requires_grad_()
    importance = Importance()
    with accumulate_importance(block, ["inner.fc", "last"], into=importance):
        block(x)
    block(x)  # after the context, unseen
    first, second = importance.get("inner.fc"), importance.get("last")
    assert first is not None
    assert second is not None
    assert not first.requires_grad
    torch.testing.assert_close(first, x.detach().square().sum((0, 1)))
    middle = torch.relu(block.inner(x)).detach()
    torch.testing.assert_close(second, middle.square().sum((0, 1)))


def test_a_hessian_is_summed_once_for_layers_of_one_input() -> None:
    importance = Importance(hessians=True)
    first, second = activations(2, 3, HIDDEN), activations(2, 3, HIDDEN) + 1
    for mask, x in ((None, first), (torch.tensor([[True, True, False]] * 2), second)):
        importance.mask(mask)
        importance.add("q", x)
        importance.add("k", x)
        importance.add("o", x.clone())
    real = torch.cat([first.reshape(-1, HIDDEN), second[:, :2].reshape(-1, HIDDEN)])
    owners = {name: importance.hessian_owner(name) for name in ("q", "k", "o")}
    assert owners == {"q": "q", "k": "q", "o": "o"}
    for owner in ("q", "o"):
        torch.testing.assert_close(importance.hessian(owner), real.t() @ real)
    power = importance.get("k")
    assert power is not None
    torch.testing.assert_close(power, (real.t() @ real).diagonal())
    assert importance.hessian_owner("never run") is None
    assert Importance().hessian_owner("q") is None


def test_layers_share_a_hessian_whatever_runs_between_them() -> None:
    """As projections of latents do, and blocks whose MLP runs beside attention."""
    x, latent = activations(2, 3, HIDDEN), activations(2, 3, 4)
    importance = Importance(hessians=True)
    importance.mask(None)
    importance.add("q_a", x)
    importance.add("q_b", latent)
    importance.add("kv_a", x)
    x.add_(1)  # the same tensor, of other numbers
    importance.add("up", x)
    owners = [importance.hessian_owner(name) for name in ("q_a", "q_b", "kv_a", "up")]
    assert owners == ["q_a", "q_b", "q_a", "up"]
    flat = x.reshape(-1, HIDDEN)
    torch.testing.assert_close(importance.hessian("up"), flat.t() @ flat)


def test_an_input_that_is_gone_is_not_mistaken_for_another() -> None:
    importance = Importance(hessians=True)
    importance.mask(None)
    for number in range(8):  # memory that is given back is used for the next one
        importance.add(f"layer {number}", torch.full((1, 2, 8), float(number)))
    for number in range(8):
        assert importance.hessian_owner(f"layer {number}") == f"layer {number}"
        assert float(importance.hessian(f"layer {number}")[0, 0]) == 2.0 * number**2


def test_accumulate_importance_leaves_no_hooks_even_when_the_block_fails() -> None:
    block = Block()
    with pytest.raises(RuntimeError), accumulate_importance(block, ["last"], into=Importance()):
        block(torch.zeros(1, 1, HIDDEN + 1))
    assert not any(m._forward_pre_hooks for m in block.modules())


@pytest.mark.parametrize("width", [24, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hessians_are_those_of_float64(width: int, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn((4, 100, width), generator=rng) @ torch.randn((width, width), generator=rng)
    x = (x / width**0.5).to(dtype)
    before = torch.get_float32_matmul_precision()
    importance = Importance(hessians=True, wide_product=CpuRuntime().wide_product())
    for part in x.split(2):
        importance.mask(None)
        importance.add("q", part)
    flat = x.reshape(-1, width).double()
    hessian = importance.hessian("q")
    wanted = flat.t() @ flat
    power = wanted.diagonal().sqrt()
    apart = (hessian.double() - wanted).abs() / (power[:, None] * power)
    # Sums of bfloat16 are rounded to its eight bits, and what that took off is added.
    assert float(apart.max()) < (2e-5 if dtype == torch.bfloat16 else 1e-6)
    assert torch.equal(hessian, hessian.t())
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_operands_of_16_bit_are_multiplied_as_they_are(dtype: torch.dtype) -> None:
    """Where a device sums such products in float32, no digit of the inputs' is lost."""
    seen: list[torch.dtype] = []

    def multiply(left: Tensor, right: Tensor) -> Tensor:
        seen.extend((left.dtype, right.dtype))
        return left.float() @ right.float()

    x = activations(2, 50, 600).to(dtype)
    importance = Importance(hessians=True, wide_product=multiply)
    importance.mask(None)
    importance.add("q", x)
    flat = x.reshape(-1, 600).double()
    torch.testing.assert_close(
        importance.hessian("q").double(), flat.t() @ flat, rtol=1e-5, atol=1e-4
    )
    assert set(seen) == (set() if dtype == torch.float32 else {dtype})


@pytest.mark.parametrize("hessians", [False, True])
def test_a_batch_that_broke_off_counts_once(hessians: bool) -> None:
    """Memory is full between two layers, or between two column blocks; parts of it come again."""
    samples = torch.randn((6, 4, 520), generator=torch.Generator().manual_seed(0))
    whole, broken = Importance(hessians=hessians), Importance(hessians=hessians)
    for start in (0, 3):
        whole.mask(None)
        whole.add("early", samples[start : start + 3])
        whole.add("late", samples[start : start + 3].clone())
        whole.count("experts", torch.ones(2, dtype=torch.int64))

    def part(start: int, stop: int, *, to: int = 3) -> None:
        broken.mask(None, stop=stop)
        broken.add("early", samples[start:stop])
        if to > 1:
            broken.add("late", samples[start:stop].clone())
        if to > 2:
            broken.count("experts", torch.full((2,), 1 if start else 0))

    part(0, 3)
    part(3, 6, to=1)  # broke off behind the first layer
    part(3, 5)
    broken.count("experts", torch.ones(2, dtype=torch.int64))
    part(5, 6)
    for name in ("early", "late"):
        torch.testing.assert_close(broken.get(name), whole.get(name))
    assert broken.tokens["experts"].tolist() == [2, 2], "one for each part that was new"


def test_hessians_are_given_up_when_they_are_factored() -> None:
    importance = Importance(hessians=True)
    importance.mask(None)
    importance.add("q", torch.ones((1, 2, 8)))
    importance.release_hessians()
    assert importance.hessian_owner("q") is None
