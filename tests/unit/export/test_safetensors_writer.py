"""What goes into a folder of safetensors files, under which names and in which dtype."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError, VerificationError
from autoround.export.safetensors_writer import (
    file_tensors,
    in_output_dtype,
    layer_tensors,
    output_config,
    pack_layers,
)
from autoround.formats.gptq.layout import GptqLayout
from autoround.formats.registry import layout_named
from autoround.model.files.source import CheckpointSource
from autoround.model.skeleton import adopt_model
from autoround.types import OutputPlan, QuantizedTensor, Scheme

from ...runs import NEAREST, make_session
from ...tiny import make_model
from ...tiny_quantized import nearest
from ...zoo import make_model as make_family

FLOAT16 = OutputPlan("auto_round", "auto_round:auto_gptq", "float16")
PLAIN = OutputPlan("fake", "fake", "bfloat16")


def layers(*, bits: int = 4, sym: bool = True) -> dict[str, QuantizedTensor]:
    torch.manual_seed(0)
    return {name: nearest(torch.randn(32, 64), Scheme(bits, 32, sym)) for name in ("a", "b.c")}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "qwen3_moe", "gpt_oss", "qwen2_vl"])
def test_tensors_get_the_names_and_shapes_of_published_checkpoints(
    kind: str, tmp_path: Path
) -> None:
    model = make_model("gpt2") if kind == "gpt2" else make_family(kind)
    model.save_pretrained(tmp_path)
    source = CheckpointSource(tmp_path)
    wanted = source.read(source.headers())
    skeleton = adopt_model(model)
    found = file_tensors(skeleton, skeleton.read(skeleton.keys))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("packing", ["auto_round:auto_gptq", "gptq", "awq", "pack-quantized"])
def test_packed_layers_come_back_by_their_names(packing: str) -> None:
    own = layers()
    found = pack_layers(own, packing)
    for name, layer in own.items():
        parts = {
            n.removeprefix(name + "."): t for n, t in found.items() if n.startswith(name + ".")
        }
        back = layout_named(packing).from_tensors(parts, layer.scheme, name=name)
        assert torch.equal(dense_weight(back), dense_weight(layer))
    assert len(found) == sum(n.startswith(("a.", "b.c.")) for n in found)


def test_a_layer_that_does_not_come_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = GptqLayout.from_tensors

    def wrong(*args: Any, **named: Any) -> QuantizedTensor:
        found = real(*args, **named)
        return replace(found, zero=found.zero + 1) if named["name"] == "b.c" else found

    monkeypatch.setattr(GptqLayout, "from_tensors", wrong)
    with pytest.raises(
        VerificationError, match=r"layer b.c does not come back from gptq as it was"
    ):
        pack_layers(layers(), "gptq")


def test_a_format_of_plain_weights_has_them_as_the_model_stores_them() -> None:
    own = layers(bits=3, sym=False)
    found = layer_tensors(own, PLAIN, transposed=["b.c"])
    assert found.keys() == {"a.weight", "b.c.weight"}
    for name, layer in own.items():
        weight = dense_weight(layer).to(torch.bfloat16)
        assert torch.equal(found[f"{name}.weight"], weight.t() if name == "b.c" else weight)
    packed = layer_tensors(layers(), FLOAT16, transposed=["b.c"])
    assert {name.rpartition(".")[2] for name in packed} == {"qweight", "qzeros", "scales"}


def test_floating_point_tensors_get_the_dtype_of_the_output_and_others_stay() -> None:
    tensors = {"w": torch.randn(3), "n": torch.tensor([5]), "b": torch.tensor([True])}
    found = in_output_dtype(FLOAT16, tensors)
    assert {n: t.dtype for n, t in found.items()} == {
        "w": torch.float16,
        "n": torch.int64,
        "b": torch.bool,
    }
    assert torch.equal(found["w"], tensors["w"].half())


@pytest.mark.parametrize("value", [65520.0, -1e30])
def test_values_too_large_for_half_precision_are_refused_by_name(value: float) -> None:
    tensors: dict[str, Tensor] = {"fine": torch.tensor([65504.0]), "w": torch.tensor([1.0, value])}
    with pytest.raises(
        FormatError, match="tensor w holds values too large .*output.dtype=bfloat16"
    ):
        in_output_dtype(FLOAT16, tensors)
    assert torch.isfinite(in_output_dtype(PLAIN, tensors)["w"]).all()
    # Infinity was there before.
    endless = {"mask": torch.tensor([float("-inf")])}
    assert in_output_dtype(FLOAT16, endless)["mask"].isinf().all()


def config_of(kind: str, values: dict[str, object]) -> dict[str, Any]:
    session = make_session(make_model(kind), {**NEAREST, **values})
    return output_config(session.plan, session.plan.outputs[0], session.skeleton)


def test_the_config_says_what_was_quantized_how() -> None:
    found = config_of("llama", {"scheme.bits": 3, "output.dtype": "bfloat16"})
    quantization = found["quantization_config"]
    assert (quantization["bits"], quantization["group_size"], quantization["sym"]) == (3, 32, True)
    assert found["dtype"] == "bfloat16"
    assert "quantization_config" not in config_of("llama", {"output.format": "fake"})


def test_a_quantized_head_is_the_embeddings_no_more() -> None:
    assert config_of("gemma2", {})["tie_word_embeddings"] is True
    assert config_of("gemma2", {"lm_head.bits": 8})["tie_word_embeddings"] is False
