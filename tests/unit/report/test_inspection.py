from __future__ import annotations

from autoround.checkpoints.inspect import Inspection, Part
from autoround.report.inspection import inspection_lines, inspection_values

INSPECTION = Inspection(
    path="out",
    architecture="ToyForCausalLM",
    method="auto-round",
    quantized=(Part("W4 g128 sym, packing gptq", 2, 2_000_000, 1_031_250),),
    kept=(Part("embeddings, float16", 1, 1_000_000, 2_000_000), Part("nothing", 0, 0, 0)),
    layers={"h.0.q": "W4 g128 sym, gptq"},
)


def test_an_inspection_in_words() -> None:
    head, quantized, kept, total = inspection_lines(INSPECTION)
    assert head == "out: ToyForCausalLM, quantization: auto-round"
    assert quantized.split() == (
        [
            "W4",
            "g128",
            "sym,",
            "packing",
            "gptq",
            "2",
            "tensors",
            "2.00",
            "M",
            "weights",
            "1.03",
            "MB",
            "4.12",
            "bits",
            "per",
            "weight",
        ]
    )
    assert kept.endswith("16.00 bits per weight")
    assert total.split()[0] == "total"


def test_layers_are_listed_when_asked() -> None:
    assert inspection_lines(INSPECTION, layers=True) == [
        *inspection_lines(INSPECTION),
        "  h.0.q: W4 g128 sym, gptq",
    ]


def test_an_inspection_as_values() -> None:
    values = inspection_values(INSPECTION)
    assert list(values) == [
        "path", "architecture", "method", "quantized", "kept", "total", "layers", "notes",
    ]  # fmt: skip
    assert values["quantized"] == [
        {
            "what": "W4 g128 sym, packing gptq",
            "count": 2,
            "weights": 2_000_000,
            "bytes": 1_031_250,
            "bits_per_weight": 4.125,
        }
    ]
    kept = values["kept"]
    assert isinstance(kept, list)
    assert kept[1]["bits_per_weight"] is None
