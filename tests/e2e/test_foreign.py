"""Checkpoints of other programs: inspected, loaded, run, converted and read back."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoround.checkpoints.convert import convert
from autoround.checkpoints.inspect import inspect_folder
from autoround.errors import FormatError
from autoround.inference.load import load
from autoround.types import Scheme

from ..foreign import NAMES, Foreign, read, write_base, write_foreign

IDS = torch.arange(3, 67).reshape(2, 32)
Base = Callable[[str], Path]
#: Formats that hold what a layout of another program holds.
TO = {"mlx": "auto_round", "pack-quantized": "gptq_v2", "awq": "compressed-tensors"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = write_base(kind, tmp_path_factory.mktemp("base") / kind)
        return made[kind]

    return make


def logits(folder: Path) -> Tensor:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        result: Tensor = load(folder, device="cpu", dtype=torch.float32)(IDS).logits
    return result


def reference(foreign: Foreign) -> Tensor:
    """Return the logits of the same weights unpacked, by transformers itself."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(foreign.dense, dtype=torch.float32)
    with torch.no_grad():
        result: Tensor = model.eval()(IDS).logits
    return result


def schemes(folder: Path) -> dict[str, str]:
    """Return the schemes that are read of a folder, without what MLX cannot say."""
    layers = inspect_folder(folder).layers
    return {name: scheme.partition(",")[0] for name, scheme in layers.items()}


def expected(foreign: Foreign, layout: str) -> dict[str, str]:
    # In MLX's files all layers are asymmetric.
    return {
        name: str(
            Scheme(q.scheme.bits, q.scheme.group_size, q.scheme.sym and layout != "mlx")
        ).strip()
        for name, q in foreign.layers.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_another_program(name: str, base: Base, tmp_path: Path) -> None:
    kept = read(name)
    foreign = write_foreign(name, base(kept["kind"]), tmp_path / "foreign")
    layouts = {rule["layout"] for rule in kept["layers"].values()}
    (layout,) = layouts
    wanted = expected(foreign, layout)
    assert wanted
    assert schemes(foreign.folder) == wanted
    weights = sum(q.codes.numel() for q in foreign.layers.values())
    inspection = inspect_folder(foreign.folder)
    assert sum(part.weights for part in inspection.quantized) == weights
    mine = logits(foreign.folder)
    # Sums in another order alone: the logits are around 0.2.
    assert float((mine - reference(foreign)).abs().max()) < 2e-4
    to = "gptq_v2" if foreign.orders else TO.get(layout, "auto_round")
    if any(q.scheme.bits not in (4, 8) for q in foreign.layers.values()):
        to = "gptq_v2"
    conversion = convert(foreign.folder, tmp_path / "converted", formats=[to])
    assert (conversion.exact, conversion.lossy) == (len(foreign.layers), {})
    assert set(schemes(tmp_path / "converted")) == set(wanted)
    assert torch.equal(logits(tmp_path / "converted"), mine)


def test_there_are_many_and_most_are_written_by_the_programs() -> None:
    written = [name for name in NAMES if read(name)["written"]]
    assert len(NAMES) >= 20
    assert len(written) >= math.ceil(len(NAMES) / 2)


@pytest.mark.parametrize("name", ["intel-glm-mtp", "cpatonn-glm-awq-mtp"])
def test_blocks_that_predict_further_tokens_are_carried_and_named(
    name: str, base: Base, tmp_path: Path
) -> None:
    foreign = write_foreign(name, base("glm4_moe"), tmp_path / "foreign")
    further = {layer for layer in foreign.layers if layer.startswith("model.layers.2.")}
    assert further
    (note,) = inspect_folder(foreign.folder).notes
    assert note.startswith("layer model.layers.2.")
    with pytest.warns(UserWarning, match="which predict further tokens"):
        load(foreign.folder, device="cpu", dtype=torch.float32)
    formats = ["auto_round", "auto_gptq", "auto_awq"]
    conversion = convert(foreign.folder, tmp_path / "out", formats=formats)
    assert conversion.notes == (note,)
    for part in formats:
        inspection = inspect_folder(tmp_path / "out" / part)
        assert further <= set(inspection.layers)
        # Nothing is lost, and what stays in 16 bit says so where readers go by the place.
        assert inspection.total.weights == inspect_folder(foreign.folder).total.weights
        text = (tmp_path / "out" / part / "config.json").read_text(encoding="utf-8")
        assert "model.layers.2.eh_proj" in text.replace("\\\\", "")
        assert not json.loads(text)["quantization_config"].get("lm_head")


def test_packed_embeddings_are_unpacked_as_they_are_read(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = read("mlx-lm")
    del kept["config"]["quantization"]["model.embed_tokens"]
    rule = {"bits": 4, "group_size": 64, "sym": True, "layout": "mlx"}
    kept["layers"][r"model\.embed_tokens"] = rule
    monkeypatch.setattr("tests.foreign.read", lambda name: kept)
    foreign = write_foreign("mlx-lm", base("llama"), tmp_path / "foreign")
    assert "model.embed_tokens" in foreign.layers
    assert float((logits(foreign.folder) - reference(foreign)).abs().max()) < 2e-4
    with pytest.raises(FormatError, match="embed_tokens is quantized, and is no linear layer"):
        inspect_folder(foreign.folder)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("weight", torch.float8_e4m3fn, "k_proj.weight is torch.float8_e4m3fn: weights of that"),
        ("weight_scale", torch.float32, "k_proj.weight_scale, which belongs to no packed layer"),
    ],
)
def test_layers_of_another_kind_beside_packed_ones_are_refused(
    part: str, value: torch.dtype, words: str, base: Base, tmp_path: Path
) -> None:
    # As llm-compressor writes a model with a group in 8-bit floats.
    foreign = write_foreign("llmcompressor-w4-asym", base("llama"), tmp_path / "foreign")
    file = foreign.folder / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.self_attn.k_proj"
    tensors[f"{name}.{part}"] = tensors[f"{name}.weight"].clone().to(value)
    save_file(tensors, file, metadata={"format": "pt"})
    for read_it in (inspect_folder, logits):
        with pytest.raises(FormatError, match=words):
            read_it(foreign.folder)
    with pytest.raises(FormatError, match=words):
        convert(foreign.folder, tmp_path / "out", formats=["auto_round"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gptqmodel-w4", "checkpoint_format", "gptq_v2"),
        ("optimum-gptq", "checkpoint_format", "gptq"),
        ("auto_round-model-free-w4", "packing_format", "auto_round"),
    ],
)
def test_a_config_that_names_the_other_version_is_refused(
    name: str, key: str, value: str, base: Base, tmp_path: Path
) -> None:
    foreign = write_foreign(name, base("llama"), tmp_path / "foreign")
    file = foreign.folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["quantization_config"][key] = value
    file.write_text(json.dumps(config), encoding="utf-8")
    words = "layer model.layers.0.* all its zero points are .* of the other version"
    with pytest.raises(FormatError, match=words):
        logits(foreign.folder)
    with pytest.raises(FormatError, match=words):
        convert(foreign.folder, tmp_path / "out", formats=["auto_round"])
