"""A checkpoint under the names and shapes of its model class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoround.errors import ModelError
from autoround.model.build import build_from
from autoround.model.convert import ConvertedSource, match, natural, rules_of
from autoround.model.experts import ExpertTensor, expert_tensors
from autoround.model.files.source import Headers

from ...tiny import KINDS, TinyModel, make_model
from ...zoo import make_config
from ...zoo import make_model as make_family

W1 = "model.layers.0.block_sparse_moe.experts.{}.w1.weight"
GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"


class Files:
    """Tensors in memory, read under their names; ``asked`` are those that were."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.asked = tensors, list[str]()

    def headers(self) -> Headers:
        return {n: (tuple(t.shape), t.dtype) for n, t in self.tensors.items()}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        found = {name: self.tensors[name] for name in names}
        self.asked += found
        return found


def mixtral(*, experts: int = 4) -> tuple[nn.Module, Files]:
    """Return an empty model, and files as Mistral has them: a matrix for every expert."""
    model = make_model("mixtral")
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        block = name.split(".mlp.")[0] + ".block_sparse_moe"
        if name.endswith("gate_up_proj"):
            for i, whole in enumerate(tensor):
                tensors[f"{block}.experts.{i}.w1.weight"] = whole.chunk(2)[0].clone()
                tensors[f"{block}.experts.{i}.w3.weight"] = whole.chunk(2)[1].clone()
        elif name.endswith("down_proj"):
            tensors |= {f"{block}.experts.{i}.w2.weight": w.clone() for i, w in enumerate(tensor)}
        else:
            tensors[name.replace(".mlp.", ".block_sparse_moe.")] = tensor
    return build_from(model.config), Files(tensors)


def test_equal_layers_are_converted_once_for_their_headers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, files = mixtral()
    done: list[str] = []
    convert = ConvertedSource._converted

    def counted(self: Any, first: str, *rest: Any) -> dict[str, Tensor]:
        done.append(first)
        return convert(self, first, *rest)

    monkeypatch.setattr(ConvertedSource, "_converted", counted)
    source = ConvertedSource(files, model)
    # Two kinds of stacks, however many layers there are.
    assert len(done) == 2
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: shape for name, (shape, _) in source.headers().items()} == wanted
    narrow = W1.replace(".0.", ".1.", 1).format(3)
    files.tensors[narrow] = files.tensors[narrow][:-8]
    with pytest.raises(ModelError, match="cannot become model.layers.1"):
        ConvertedSource(files, model)


def test_experts_are_stacked_and_others_renamed() -> None:
    model, files = mixtral()
    source, wanted = ConvertedSource(files, model), make_model("mixtral").state_dict()
    assert source.unknown == ()
    assert source.headers() == {n: (tuple(t.shape), t.dtype) for n, t in wanted.items()}
    assert files.asked == []
    found = source.read(wanted)
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_only_what_a_tensor_is_made_of_is_read() -> None:
    model, files = mixtral()
    source = ConvertedSource(files, model)
    source.read([GATE_UP])
    w3 = W1.replace("w1", "w3")
    assert sorted(files.asked) == sorted(p.format(i) for p in (W1, w3) for i in range(4))
    origin = source.origin(GATE_UP)
    assert origin is not None
    assert [key for _, key in origin.keys if "w1" in key] == [W1.format(i) for i in range(4)]
    assert source.origin("model.unknown") is None
    assert sorted(source.stored_names([GATE_UP])) == sorted(files.asked)
    assert source.stored_names(["model.unknown"]) == ["model.unknown"]


def test_an_expert_that_is_missing_is_told() -> None:
    model, files = mixtral()
    del files.tensors[W1.format(2)]
    with pytest.raises(ModelError, match=r"and others cannot become model.layers.0.mlp.experts"):
        ConvertedSource(files, model)


def test_names_of_files_are_found_by_modules() -> None:
    model, files = mixtral()
    source = ConvertedSource(files, model)
    modules = ["model.layers.0.mlp.gate", "model.layers.1.self_attn.q_proj", "model.none"]
    assert source.files_of(modules) == [
        "model.layers.0.block_sparse_moe.gate",
        "model.layers.1.self_attn.q_proj",
    ]
    assert source.transposed_files() == set()


def test_layers_that_are_stored_as_in_out_are_named() -> None:
    model = make_model("gpt2")
    found = ConvertedSource(Files(model.state_dict()), model).transposed_files()
    assert found == {f"transformer.h.{i}.{name}" for i in (0, 1) for name in KINDS["gpt2"].matrices}


def test_what_the_class_does_not_know_keeps_its_name() -> None:
    tensors = {**make_model("llama").state_dict(), "mtp.0.fc.weight": torch.randn(3, 5)}
    source = ConvertedSource(Files(tensors), make_model("llama"))
    assert source.unknown == ("mtp.0.fc.weight",)
    assert source.headers()["mtp.0.fc.weight"] == ((3, 5), torch.float32)
    read = source.read(["mtp.0.fc.weight", "lm_head.weight"])
    assert all(torch.equal(read[name], tensors[name]) for name in read)


@pytest.mark.parametrize("kind", ["gpt_oss", "qwen3_moe", "llama4_text"])
def test_experts_written_one_by_one_are_stacked_as_the_model_stores_them(kind: str) -> None:
    model = make_family(kind)
    tensors = dict(model.state_dict())
    stacked = expert_tensors(model)
    assert stacked
    for name, own in stacked.items():
        whole = tensors.pop(name)
        whole = whole.transpose(1, 2) if own.transposed else whole
        experts = name.rpartition(".")[0]
        for i, expert in enumerate(whole):
            for part, called in enumerate(own.parts):
                tensors[f"{experts}.{i}.{called}.weight"] = expert[own.rows(part)].clone()
    source = ConvertedSource(Files(tensors), build_from(make_config(kind)))
    assert source.unknown == ()
    wanted = {name: model.state_dict()[name] for name in stacked}
    found = source.read(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_experts_written_one_by_one_must_be_of_one_shape() -> None:
    model = make_family("gpt_oss")
    own = ExpertTensor("e", 4, (8, 8), False, ("gate_proj", "up_proj"), False)
    name = "model.layers.0.mlp.experts.1.gate_proj.weight"
    tensors = {name: torch.ones(own.shape)}
    with pytest.raises(ModelError, match="experts of .*gate_up_proj are not all there"):
        ConvertedSource(Files(tensors), model)


def tiny(prefix: str = "") -> Any:
    model = TinyModel()
    model.base_model_prefix = prefix  # type: ignore[assignment]
    return model


def test_conversions_are_those_of_the_class() -> None:
    assert not rules_of(tiny()).converters
    rules = rules_of(make_model("mixtral"))
    assert rules.converters
    assert all(pattern in rule.source_patterns for pattern, rule in rules.by_pattern.items())


def test_the_base_models_prefix_is_put_on_or_taken_away() -> None:
    model = nn.Module()
    model.model = tiny()
    model.base_model_prefix = "model"  # type: ignore[assignment]
    origins, unknown = match(model, ["embed.weight", "layers.1.fc.bias", "model.layers.0.fc.bias"])
    assert {n: (o.keys[0][1], o.prefixed) for n, o in origins.items()} == {
        "model.embed.weight": ("embed.weight", True),
        "model.layers.1.fc.bias": ("layers.1.fc.bias", True),
        "model.layers.0.fc.bias": ("model.layers.0.fc.bias", False),
    }
    assert unknown == []
    origins, _ = match(tiny("base"), ["base.embed.weight"])
    assert origins["embed.weight"].prefixed


def test_a_second_tensor_for_the_same_parameter_is_unknown() -> None:
    origins, unknown = match(tiny("base"), ["base.embed.weight", "embed.weight"])
    assert origins["embed.weight"].keys[0][1] == "base.embed.weight"
    assert unknown == ["embed.weight"]


def test_names_are_sorted_by_their_numbers() -> None:
    names = ["l.10.w", "l.9.w", "l.9.b", "h12.w", "h2.w", "l.w", "l.0x.w"]
    assert sorted(names, key=natural) == [
        "h2.w",
        "h12.w",
        "l.9.b",
        "l.9.w",
        "l.10.w",
        "l.0x.w",
        "l.w",
    ]
    experts = [f"e.{i}.w" for i in range(11)]
    assert sorted(sorted(experts), key=natural) == experts
