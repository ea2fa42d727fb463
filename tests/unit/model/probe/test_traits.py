"""Traits of a model's code: names of the whole model, from a copy with fewer blocks."""

from __future__ import annotations

from autoround.model.blocks import decoder_blocks
from autoround.model.probe.traits import code_traits

from ....tiny import make_model
from ._toys import JAMBA, built


def test_what_a_copy_shows_holds_for_every_block_of_its_kind() -> None:
    model = built("mixtral", num_hidden_layers=24)
    traits = code_traits(model, decoder_blocks(model))
    assert traits.choosing == {f"model.layers.{i}.mlp.gate" for i in range(24)}
    assert traits.known
    assert traits.why_not_by_block == traits.unchecked == ""


def test_layers_whose_weight_is_read_are_named_where_they_are() -> None:
    model = built("jamba", **JAMBA)
    traits = code_traits(model, decoder_blocks(model))
    mamba = {n for n, m in model.named_modules() if n.endswith("dt_proj")}
    assert traits.read == mamba
    assert mamba


def test_a_model_without_a_copy_is_said_to_be_unknown() -> None:
    model = make_model("llama")

    class Another(type(model)):  # type: ignore[misc]
        pass

    model.__class__ = Another
    traits = code_traits(model, decoder_blocks(model))
    assert not traits.known
    assert "LlamaForCausalLM" in traits.unchecked
