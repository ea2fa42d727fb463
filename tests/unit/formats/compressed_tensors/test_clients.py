"""What a plan says of the programs that read compressed-tensors files."""

from __future__ import annotations

import pytest

from autoround.formats.compressed_tensors.clients import notes
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, LayerPlan, Scheme

W4, W8, ASYM = Scheme(4, 32, True), Scheme(8, 32, True), Scheme(4, 32, False)


def of(*schemes: Scheme | None) -> list[str]:
    return notes([LayerPlan(f"h.0.l{i}", (64, 64), scheme) for i, scheme in enumerate(schemes)])


def experts(*schemes: Scheme | None) -> list[str]:
    """Return the notes on a layer of attention in 4 bits and experts, a scheme for each."""
    path = "model.layers.0"
    layers = [LayerPlan(f"{path}.self_attn.q_proj", (64, 64), W4)]
    layers += [
        LayerPlan(f"{path}.mlp.experts.{i}.up_proj", (64, 64), scheme)
        for i, scheme in enumerate(schemes)
    ]
    return notes(layers)


def test_usual_symmetric_models_need_no_note() -> None:
    assert of(W4, W8, None) == of(W4) == of(W8, None) == experts(W4, W4) == []


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_the_first_version_that_reads_a_width_is_named(bits: int) -> None:
    told = [note for note in of(Scheme(bits, 32, True)) if "0.18.0" in note]
    assert len(told) == (bits in (3, 5, 6, 7))
    if told:
        assert told[0].startswith(f"weights of {bits} bits are read by compressed-tensors 0.18.0")


def test_widths_that_need_that_version_are_one_note() -> None:
    found = of(Scheme(6, 32, True), W4, Scheme(3, 32, True), Scheme(3, -1, True))
    assert found[0].startswith("weights of 3, 6 bits are read by compressed-tensors 0.18.0")
    assert sum("0.18.0" in note for note in found) == 1


@pytest.mark.parametrize(
    ("scheme", "usual"),
    [
        (W4, True),
        (Scheme(4, 256, True), True),
        (ASYM, True),
        (Scheme(4, PER_CHANNEL, False), True),
        (Scheme(4, PER_TENSOR, False), True),
        (Scheme(4, 16, False), False),
        (Scheme(8, 16, True), True),
        (Scheme(8, 32, False), False),
        *((Scheme(bits, 32, sym), False) for bits in (2, 3, 5, 6, 7) for sym in (True, False)),
    ],
    ids=str,
)
def test_the_kernels_that_vllm_lacks_are_noted(scheme: Scheme, usual: bool) -> None:
    told = [note for note in of(scheme) if "vLLM" in note]
    assert told == (
        [] if usual else [f"vLLM 0.32 needs the package humming-kernels, and a GPU, for {scheme}"]
    )


@pytest.mark.parametrize(
    ("scheme", "refused"),
    [
        (W4, False),
        (Scheme(4, PER_CHANNEL, False), False),
        (Scheme(8, PER_CHANNEL, True), False),
        (Scheme(8, 32, False), True),
        (Scheme(3, 32, False), False),
        (Scheme(3, PER_CHANNEL, True), True),
        (Scheme(5, PER_TENSOR, True), True),
    ],
    ids=str,
)
def test_experts_that_vllm_refuses_are_noted(scheme: Scheme, refused: bool) -> None:
    told = [note for note in experts(scheme, scheme) if "refuses this model" in note]
    assert told == (
        [f"vLLM 0.32 has no kernel for experts of {scheme}, and refuses this model"]
        if refused
        else []
    )
    assert not any("no kernel for experts" in note for note in of(scheme))


def test_what_transformers_does_not_load_is_noted() -> None:
    assert "CompressedTensorsConfig(dequantize=True)" in of(ASYM, ASYM, None)[0]
    assert "several schemes where one is asymmetric" in of(ASYM, W8)[0]
    assert "cannot load asymmetric experts" in experts(ASYM, ASYM)[0]
    for found in (of(ASYM), of(ASYM, W8), experts(ASYM)):
        assert sum("transformers" in note for note in found) == 1


def test_experts_of_several_schemes_are_noted() -> None:
    for others in ((W4, W8), (W4, None)):
        assert any("whose experts have several" in note for note in experts(*others))
    stacked = LayerPlan(
        "model.layers.0.mlp.experts.up",
        (8, 32),
        W8,
        experts=2,
        files=("model.layers.0.mlp.experts.{}.up",),
    )
    assert notes([stacked]) == []
    kept = LayerPlan("model.layers.0.mlp.experts.0.down", (8, 32), None, "kept")
    assert "whose experts have several" in notes([stacked, kept])[0]


@pytest.mark.parametrize(
    ("name", "outputs", "scheme", "misread"),
    [
        ("h.0.attn.k_proj", 120, Scheme(3, 32, False), True),
        ("h.0.attn.k_proj", 120, Scheme(3, 32, True), False),
        ("h.0.attn.k_proj", 120, Scheme(4, 32, False), False),
        ("h.0.attn.o_proj", 120, Scheme(3, 32, False), False),
        ("h.0.mlp.up_proj", 500, Scheme(4, 32, False), True),
        ("h.0.mlp.up_proj", 512, Scheme(7, 32, False), False),
        ("h.0.mlp.experts.1.w1", 100, Scheme(2, 32, False), True),
    ],
)
def test_zero_points_that_vllm_misreads_are_noted(
    name: str, outputs: int, scheme: Scheme, misread: bool
) -> None:
    told = [note for note in notes([LayerPlan(name, (outputs, 64), scheme)]) if "misreads" in note]
    assert len(told) == misread
    if misread:
        assert f"zero points of {name}: it merges" in told[0]
