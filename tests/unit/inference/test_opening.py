"""A quantized checkpoint matched with its model: which layer is packed under which name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround import api
from autoround.errors import FormatError
from autoround.inference.opening import Opened, open_packed
from autoround.model.build import build_empty
from autoround.model.files.stored import SINGLE
from autoround.types import Scheme

from ...runs import NEAREST, even_device, small
from ...tiny import KINDS
from ...tiny_quantized import write_quantized
from ...zoo import make_model

__all__ = ["even_device"]
W4 = Scheme(4, 32, True)


def opened(folder: Path) -> Opened:
    config = json.loads((folder / "config.json").read_text())
    return open_packed(folder, build_empty(folder), config["quantization_config"])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_packed_layers_are_found_by_the_modules_of_the_model(
    kind: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    write_quantized(checkpoint(kind), tmp_path / "out", lambda name: W4)
    found = opened(tmp_path / "out")
    blocks = range(KINDS[kind].count)
    wanted = {f"{KINDS[kind].blocks}.{i}.{n}" for i in blocks for n in KINDS[kind].matrices}
    assert set(found.linears) == wanted
    assert {held.stored.scheme for held in found.linears.values()} == {W4}
    model = build_empty(tmp_path / "out")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # As the model stores them, packed or not.
    headers = found.tensors.headers()
    assert all(headers[key][0] == shapes[name] for name, key in found.keys.items())
    assert found.experts == {}


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moe")
    make_model("mixtral").save_pretrained(folder / "source")
    recipe = small({**NEAREST, "output.dtype": "float16"})
    api.quantize(folder / "source", recipe, output_dir=folder / "out", device="cpu")
    return folder / "out"


def test_experts_are_found_by_part_and_number(mixtral: Path) -> None:
    found = opened(mixtral)
    experts = found.experts["model.layers.1.mlp.experts.gate_up_proj"]
    assert set(experts) == {(part, expert) for part in (0, 1) for expert in range(4)}
    for (part, expert), held in experts.items():
        name = ("w1", "w3")[part]
        assert held.file == f"model.layers.1.block_sparse_moe.experts.{expert}.{name}"
        assert held.stored.scheme == W4
    assert len(found.experts) == 4
    assert not any("experts" in name for name in found.linears)


def test_experts_of_which_some_are_plain_are_unpacked_as_they_are_read(
    mixtral: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    tensors = load_file(mixtral / SINGLE)
    name = "model.layers.0.block_sparse_moe.experts.2.w1"
    parts = [key for key in tensors if key.startswith(f"{name}.")]
    assert parts
    for key in parts:
        del tensors[key]
    tensors[f"{name}.weight"] = torch.randn(96, 64).half()
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    config = json.loads((mixtral / "config.json").read_text())
    extra = config["quantization_config"].setdefault("extra_config", {})
    extra[name] = {"bits": 16, "data_type": "float"}
    (folder / "config.json").write_text(json.dumps(config))
    found = opened(folder)
    stacked = "model.layers.0.mlp.experts.gate_up_proj"
    assert stacked not in found.experts
    assert "model.layers.1.mlp.experts.gate_up_proj" in found.experts
    assert found.tensors.read([stacked])[stacked].shape == (4, 192, 64)


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ("model.layers.0.mlp.up_proj.qweight", "model.layers.0.mlp.up_proj"),
        ("model.norm.weight", "tensor model.norm.weight should have shape (64,)"),
    ],
)
def test_what_the_files_lack_is_named(
    remove: str, words: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    write_quantized(checkpoint("llama"), tmp_path / "out", lambda name: W4)
    tensors = load_file(tmp_path / "out" / SINGLE)
    del tensors[remove]
    save_file(tensors, tmp_path / "out" / SINGLE)
    with pytest.raises(FormatError, match=re.escape(words)):
        opened(tmp_path / "out")


def test_a_checkpoint_without_packed_layers_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    write_quantized(checkpoint("llama"), tmp_path / "out", lambda name: W4)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    plain = json.loads((checkpoint("llama") / "config.json").read_text())
    plain["quantization_config"] = config["quantization_config"]
    shutil.copytree(checkpoint("llama"), tmp_path / "plain")
    (tmp_path / "plain" / "config.json").write_text(json.dumps(plain))
    with pytest.raises(FormatError, match="names no layer of this model"):
        opened(tmp_path / "plain")


def test_blocks_that_a_config_lists_are_no_matter(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    write_quantized(checkpoint("llama"), tmp_path / "out", lambda name: W4)
    before = opened(tmp_path / "out").linears
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["quantization_config"]["block_name_to_quantize"] = "other.layers"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert opened(tmp_path / "out").linears == before


def test_what_is_not_one_tensor_as_it_stands_is_told_with_its_tensors(
    mixtral: Path, tmp_path: Path
) -> None:
    found = opened(mixtral)
    assert found.parts_of_others() == {}
    assert len(found.tensors.conversions()) == 4  # two stacked weights in each of two layers
    expert = "model.layers.1.block_sparse_moe.experts.2.w3"
    packing = found.layers[expert].packing
    rest = {name: x for name, x in found.experts.items() if "layers.1." not in name}
    becomes = found._replace(experts=rest).parts_of_others()
    parts = {name for name in becomes if name.startswith(f"{expert}.")}
    assert parts == {n for n in found.files.headers() if n.startswith(f"{expert}.")}
    assert len(parts) == 3
    assert packing
    assert {becomes[name] for name in parts} == {"model.layers.1.mlp.experts.gate_up_proj"}
    gate = "model.layers.1.mlp.gate.weight"
    assert found.tensors.plain_names()[gate] == "model.layers.1.block_sparse_moe.gate.weight"
    assert found.tensors.made_with(gate) == [gate]


def test_files_may_lack_what_is_optional_or_tied(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    write_quantized(checkpoint("llama"), folder, lambda name: W4)
    state = load_file(folder / SINGLE)
    del state["lm_head.weight"]
    save_file(state, folder / SINGLE)
    with pytest.raises(FormatError, match="layer lm_head: the files hold neither"):
        opened(folder)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    head = "lm_head.weight"
    embeddings = "model.embed_tokens.weight"
    for options in ({"optional": {head}}, {"tied": {head: embeddings}}):
        found = open_packed(folder, build_empty(folder), config, **options)  # type: ignore[arg-type]
        assert head not in found.keys
        assert embeddings in found.keys
