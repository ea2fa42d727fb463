"""From a weight to a target of the core, and from its rounding to what formats carry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core.ops import TorchOps
from autoround.core.rounding import dense_weight, initial_rounding
from autoround.core.rtn import Target, round_to_nearest
from autoround.device.runtime import TorchRuntime
from autoround.errors import AutoRoundError
from autoround.formats.gguf.blocks import GgufTensor
from autoround.formats.gguf.tensors import dense
from autoround.session.session import Session
from autoround.tuning.targets import make_target, quantize_targets
from autoround.types import LayerPlan, OutputPlan, QuantizedTensor, Scheme

from ...runs import NEAREST, make_session
from ...tiny import make_model
from ...tiny_quantized import nearest

OPS = TorchOps()
WEIGHT = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def searching() -> Session:
    return make_session(make_model("llama"), {"tuning.iters": 0}, data=torch.ones(4, 16).long() * 9)


@pytest.fixture(scope="module")
def plain() -> Session:
    return make_session(make_model("llama"), NEAREST)


def layer(scheme: Scheme, *, experts: int = 0) -> LayerPlan:
    return LayerPlan("b.fc", (24, 64), scheme, experts=experts, block="b")


def error(target: Target, scheme: Scheme, weights: Tensor | None = None) -> float:
    """Return the squared error of rounding to nearest, weighted by input channel."""
    own = layer(scheme)
    found = quantize_targets(
        [own], {own.name: target}, round_to_nearest({own.name: target}), ops=OPS
    )
    apart = (dense(found[own.name]) - WEIGHT).double().square()
    return float((apart if weights is None else apart * weights.double()).sum())


@pytest.mark.parametrize("group", [16, 48, -1, 0])
@pytest.mark.parametrize("sym", [True, False])
def test_without_search_a_weight_is_rounded_to_its_minimum_and_maximum(
    plain: Session, group: int, sym: bool
) -> None:
    own = layer(Scheme(3, group, sym))
    target = make_target(plain, own, WEIGHT, None)
    assert target.shape == WEIGHT.shape
    found = quantize_targets(
        [own], {own.name: target}, round_to_nearest({own.name: target}), ops=OPS
    )
    got, wanted = found[own.name], nearest(WEIGHT, own.scheme or Scheme(3, group, sym))
    assert isinstance(got, QuantizedTensor)
    assert torch.equal(got.codes, wanted.codes)
    assert torch.equal(got.scale, wanted.scale)
    assert torch.equal(got.zero, wanted.zero)
    assert got.scheme == own.scheme


def test_searched_scales_are_closer_and_closer_still_where_it_matters(
    plain: Session, searching: Session
) -> None:
    scheme = Scheme(3, 32, False)
    importance = torch.rand(64).pow(4)
    whole = error(make_target(plain, layer(scheme), WEIGHT, None), scheme)
    searched = make_target(searching, layer(scheme), WEIGHT, None)
    weighted = make_target(searching, layer(scheme), WEIGHT, importance)
    assert error(searched, scheme) < whole
    assert error(weighted, scheme, importance) < error(searched, scheme, importance)


def test_each_expert_is_searched_by_its_own_importance(searching: Session) -> None:
    own = layer(Scheme(2, 32, False), experts=3)
    importance = torch.rand(3, 64)
    stacked = make_target(searching, own, WEIGHT, importance).grid
    for expert, rows in enumerate(torch.arange(24).reshape(3, 8)):
        alone = make_target(
            searching, layer(Scheme(2, 32, False)), WEIGHT[rows], importance[expert]
        )
        assert torch.equal(stacked.lo[rows], alone.grid.lo)
        assert torch.equal(stacked.hi[rows], alone.grid.hi)


@pytest.mark.parametrize("kind", ["q4_k", "q6_k", "q5_1"])
def test_types_of_gguf_hold_what_was_rounded(plain: Session, kind: str) -> None:
    from autoround.core.grids.gguf_types import scheme_of_type

    own = LayerPlan("b.fc", (6, 256), scheme_of_type(kind), block="b")
    weight = torch.randn(6, 256)
    target = make_target(plain, own, weight, None)
    rounding = round_to_nearest({own.name: target})
    found = quantize_targets([own], {own.name: target}, rounding, ops=OPS)[own.name]
    assert isinstance(found, GgufTensor)
    rounded = OPS.fake_quantize(
        target.groups, rounding[own.name], grid=target.grid, dtype=torch.float32
    )
    torch.testing.assert_close(dense(found), rounded.reshape(6, 256), rtol=1e-5, atol=1e-6)


def test_several_layers_come_out_as_each_alone(plain: Session) -> None:
    layers = [
        replace(layer(Scheme(bits, group, False)), name=f"b.{bits}")
        for bits, group in ((2, 16), (8, -1))
    ]
    targets = {x.name: make_target(plain, x, WEIGHT, None) for x in layers}
    roundings = {
        name: initial_rounding(t.groups)._replace(offset=torch.rand_like(t.groups) - 0.5)
        for name, t in targets.items()
    }
    both = quantize_targets(layers, targets, roundings, ops=OPS)
    for x in layers:
        (alone,) = quantize_targets([x], targets, roundings, ops=OPS).values()
        one = both[x.name]
        assert isinstance(alone, QuantizedTensor)
        assert isinstance(one, QuantizedTensor)
        assert torch.equal(dense_weight(one), dense_weight(alone))
        assert one.scheme == x.scheme


def test_zero_points_are_those_that_all_formats_can_hold(plain: Session) -> None:
    """GPTQ stores a zero point less one, so that zero has no place."""
    own, positive = layer(Scheme(4, 32, False)), WEIGHT.abs()

    def zeros(*packings: str) -> Tensor:
        outputs = tuple(OutputPlan(p, p, "float16") for p in packings)
        session = replace(plain, plan=replace(plain.plan, outputs=outputs))
        target = make_target(session, own, positive, None)
        found = quantize_targets(
            [own], {own.name: target}, round_to_nearest({own.name: target}), ops=OPS
        )
        held = found[own.name]
        assert isinstance(held, QuantizedTensor)
        return held.zero

    assert zeros("auto_round").eq(0).all()
    assert zeros("gptq").eq(1).all()
    assert zeros("auto_round", "gptq").eq(1).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_by_layer(plain: Session, value: float) -> None:
    weight = WEIGHT.clone()
    weight[3, 7] = value
    with pytest.raises(AutoRoundError, match="layer b.fc: its weight holds NaN or infinity"):
        make_target(plain, layer(Scheme(4, 32, True)), weight, None)


def test_a_weight_beyond_the_reach_of_half_precision_scales_is_refused(plain: Session) -> None:
    own = layer(Scheme(2, 32, True))
    weight = WEIGHT.clone()
    weight[0, 0] = 65504.0
    make_target(plain, own, weight, None)
    weight[0, 0] = 65504.0 * 1000
    with pytest.raises(
        AutoRoundError, match=r"a weight of 6.55e\+07 is beyond .* add it to ignore"
    ):
        make_target(plain, own, weight, None)


def test_a_greatest_magnitude_that_is_known_is_not_asked_for_again(plain: Session) -> None:
    own = layer(Scheme(4, 32, True))
    make_target(plain, own, WEIGHT, None, largest=float(WEIGHT.abs().max()))
    with pytest.raises(AutoRoundError, match="layer b.fc: its weight holds NaN or infinity"):
        make_target(plain, own, WEIGHT, None, largest=float("nan"))


def test_the_operations_of_the_device_search(searching: Session) -> None:
    class Elsewhere(TorchOps):
        def search_scales(self, *args: Any, **kwargs: Any) -> Any:
            return super().search_scales(*args, **kwargs)._replace(lo=torch.full((24, 2, 1), -3.0))

    session = replace(searching, runtime=TorchRuntime("cpu", torch.device("cpu")))
    session.runtime.__dict__["ops"] = Elsewhere()
    target = make_target(session, layer(Scheme(4, 32, False)), WEIGHT, torch.rand(64))
    assert target.grid.lo.eq(-3.0).all()
