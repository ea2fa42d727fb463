"""What a plan says of engines that refuse or slow down a format."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoround.formats.engine_notes import auto_round_notes, awq_notes, gptq_notes, stacked_notes
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
    assert "W3 g64 sym by its Humming kernels alone" in note
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


def test_what_reads_no_rules_is_named() -> None:
    def note(*schemes: Scheme | None, head: Scheme | None = None) -> bool:
        inside = [
            LayerPlan(f"l.{i // 2}.{'ab'[i % 2]}", (64, 128), each, block=f"l.{i // 2}")
            for i, each in enumerate(schemes)
        ]
        notes = gptq_notes("auto_gptq", [*inside, LayerPlan("lm_head", (64, 128), head)])
        return any("through optimum" in each for each in notes)

    assert not note(SYM, SYM, SYM, SYM)
    assert not note(SYM, None, SYM, None)
    assert note(SYM, None, SYM, SYM)
    assert note(SYM, W8, SYM, W8)
    assert note(SYM, SYM, head=SYM)


def test_experts_of_other_names_are_noted() -> None:
    layer = LayerPlan(
        "model.layers.0.mlp.experts.down_proj",
        (128, 64),
        SYM,
        experts=2,
        files=("model.layers.0.block_sparse_moe.experts.{}.w2",),
    )
    for notes in (
        gptq_notes("auto_gptq", [layer]),
        awq_notes("auto_awq", [layer]),
        auto_round_notes("auto_round", "auto_round:auto_gptq", [layer]),
    ):
        (note,) = [note for note in notes if "names" in note]
        assert "model.layers.0.block_sparse_moe.experts.0.w2" in note
    plain = replace(layer, files=("model.layers.0.mlp.experts.{}.down_proj",))
    assert awq_notes("auto_awq", [plain]) == awq_notes("auto_awq", [replace(layer, scheme=None)])
    assert awq_notes("auto_awq", [plain]) == []


def test_transformers_by_itself_reads_no_packed_experts() -> None:
    layer = LayerPlan("l.0.experts.down_proj", (128, 64), SYM, experts=2)
    (note,) = stacked_notes("auto_awq", [layer])
    assert note.startswith("auto_awq: transformers without GPTQModel's own loader")
    assert note.replace("auto_awq", "gptq_v2") in gptq_notes("gptq_v2", [layer])
    assert stacked_notes("auto_awq", [replace(layer, scheme=None), *layers(SYM)]) == []
