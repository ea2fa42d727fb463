"""What a plan says of engines that refuse or slow down a format."""

from __future__ import annotations

import pytest

from autoround.formats.engine_notes import auto_round_notes, awq_notes, gptq_notes
from autoround.types import LayerPlan, Scheme

SYM, ASYM, W8 = Scheme(4, 32, True), Scheme(4, 32, False), Scheme(8, 32, True)


def layers(*schemes: Scheme | None) -> list[LayerPlan]:
    return [LayerPlan(f"l.{i}.down_proj", (64, 128), each) for i, each in enumerate(schemes)]


@pytest.mark.parametrize(
    "scheme", [ASYM, Scheme(3, 32, True), Scheme(2, 64, False), Scheme(8, 16, True)]
)
def test_gptq_is_run_symmetric_in_4_and_8_bits(scheme: Scheme) -> None:
    (note,) = gptq_notes("gptq_v2", layers(SYM, scheme, None))
    assert note.startswith(f"gptq_v2: vLLM refuses {scheme};")
    assert gptq_notes("gptq_v2", layers(SYM, W8, Scheme(4, -1, True), Scheme(4, 0, True))) == []


def experts(scheme: Scheme | None, *, hidden: int, inner: int) -> list[LayerPlan]:
    shapes = {"gate_proj": (inner, hidden), "down_proj": (hidden, inner)}
    return [
        *(LayerPlan(f"l.0.mlp.experts.0.{n}", shape, scheme) for n, shape in shapes.items()),
        *layers(SYM, SYM, SYM),
    ]


def test_narrow_experts_go_without_rules() -> None:
    for hidden, inner, scheme in ((192, 128, W8), (128, 48, None)):
        (note,) = gptq_notes("auto_gptq", experts(scheme, hidden=hidden, inner=inner))
        assert note.startswith("auto_gptq: vLLM reads experts of this width (l.0.mlp.experts.0.")
    assert gptq_notes("auto_gptq", experts(W8, hidden=128, inner=64)) == []
    assert gptq_notes("auto_gptq", experts(SYM, hidden=192, inner=48)) == []


def test_packings_of_auto_round_are_told_apart() -> None:
    (note,) = auto_round_notes("auto_round", "auto_round", layers(ASYM, W8))
    assert "vLLM and SGLang refuse packing auto_round" in note
    packing = "auto_round:auto_gptq"
    (note,) = auto_round_notes("auto_round:auto_gptq", packing, layers(ASYM))
    assert "vLLM refuses W4 g32 asym in packing auto_round:auto_gptq" in note
    (note,) = auto_round_notes("auto_round", packing, layers(Scheme(3, 64, True), W8))
    assert "W3 g64 sym on CUDA only" in note
    assert auto_round_notes("auto_round", packing, layers(SYM, W8, None)) == []


def test_what_runs_slowly_is_said() -> None:
    packing = "auto_round:auto_awq"
    assert auto_round_notes("auto_round", packing, layers(ASYM)) == []
    (note,) = auto_round_notes("auto_round", packing, layers(ASYM, SYM))
    assert "W4 g32 sym in AWQ's packing on its slow kernels" in note
    (note,) = awq_notes("auto_awq", layers(Scheme(4, 16, False)))
    assert note.startswith("auto_awq: vLLM runs W4 g16 asym on its slow kernels")
    # AWQ's own format says that there are zero points, symmetric or not.
    assert awq_notes("auto_awq", layers(SYM)) == []
