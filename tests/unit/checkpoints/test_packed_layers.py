"""The layers of a quantized checkpoint are held against the model's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoround.checkpoints.packed_layers import KEPT, match_packed_layers
from autoround.errors import FormatError
from autoround.formats.unpacking import UnpackingSource
from autoround.model.build import build_empty
from autoround.model.files.source import CheckpointSource
from autoround.model.files.stored import SINGLE
from autoround.types import LayerPlan, Scheme

from ...tiny_quantized import write_quantized

Checkpoint = Callable[[str], Path]
W4, W3 = Scheme(4, 32, True), Scheme(3, 16, False)


def some(name: str) -> Scheme | None:
    return None if "v_proj" in name else W3 if "down" in name or "c_proj" in name else W4


def matched(folder: Path) -> tuple[UnpackingSource, dict[str, list[LayerPlan]]]:
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    return match_packed_layers(build_empty(folder), CheckpointSource(folder), config)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_every_matrix_of_the_model_has_its_scheme_or_is_kept(
    kind: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    layers = write_quantized(checkpoint(kind), tmp_path / "out", some)
    unpacking, found = matched(tmp_path / "out")
    assert set(unpacking.layers) == set(layers)
    for name, own in found.items():
        (layer,) = own
        assert layer.name == name
        assert layer.scheme == (layers[name].scheme if name in layers else None)
        assert layer.reason == ("" if name in layers else KEPT)
        if name in layers:
            assert layer.shape == tuple(layers[name].codes.shape)
        assert layer.transposed == (kind == "gpt2" and name in layers)
    assert set(layers) <= set(found)


def test_experts_are_listed_one_by_one_by_the_stacked_weight(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_quantized(checkpoint("mixtral"), tmp_path / "out", some)
    _, found = matched(tmp_path / "out")
    own = found["model.layers.0.mlp.experts.gate_up_proj"]
    names = [f"{i}.{part}_proj" for i in range(4) for part in ("gate", "up")]
    assert [x.name for x in own] == [f"model.layers.0.mlp.experts.{name}" for name in names]
    assert all(x.scheme is None and x.shape == (96, 64) for x in own)


def alter(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return folder


UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), "tensor model.norm.weight should have shape (64,)"),
        (lambda t: t.pop(f"{UP}.scales"), UP),
        (lambda t: [t.pop(f"{UP}.{p}") for p in ("qweight", "qzeros", "scales")], UP),
        (lambda t: t.update({f"{UP}.qweight": t[f"{UP}.qweight"][:, :64].contiguous()}), UP),
    ],
)
def test_what_does_not_fit_the_model_is_named(
    change: Callable[[dict[str, Tensor]], object],
    words: str,
    checkpoint: Checkpoint,
    tmp_path: Path,
) -> None:
    write_quantized(checkpoint("llama"), tmp_path / "out", lambda name: W4)
    with pytest.raises(FormatError, match=re.escape(words)):
        matched(alter(tmp_path / "out", change))


def test_a_packed_layer_that_the_model_lacks_is_named(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_quantized(checkpoint("llama"), tmp_path / "out", lambda name: W4)

    def more(tensors: dict[str, Tensor]) -> None:
        for part in ("qweight", "qzeros", "scales"):
            tensors[f"model.layers.7.mlp.up_proj.{part}"] = tensors[f"{UP}.{part}"].clone()

    with pytest.raises(
        FormatError, match=r"model.layers.7.mlp.up_proj is quantized, and the model"
    ):
        matched(alter(tmp_path / "out", more))


def test_a_layer_that_is_plain_against_its_config_is_kept(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_quantized(checkpoint("llama"), tmp_path / "out", lambda name: W4)

    def plain(tensors: dict[str, Tensor]) -> None:
        for part in ("qweight", "qzeros", "scales"):
            del tensors[f"{UP}.{part}"]
        tensors[f"{UP}.weight"] = torch.ones(96, 64)

    unpacking, found = matched(alter(tmp_path / "out", plain))
    assert [(x.scheme, x.reason) for x in found[UP]] == [(None, KEPT)]
    assert UP not in unpacking.layers
    assert unpacking.notes == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["quantization_config"]["extra_config"] = {UP: {"bits": 8}}
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    (note,) = matched(tmp_path / "out")[0].notes
    assert note.startswith(f"layer {UP}: the quantization_config calls it quantized, and the files")
