from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoround.errors import DeviceError, FormatError, ModelError
from autoround.inference.linear import QuantLinear
from autoround.inference.load import load
from autoround.types import PER_CHANNEL, PER_TENSOR, Scheme

from ...tiny import token_ids
from ...tiny_quantized import dense_model, write_quantized

Checkpoint = Callable[[str], Path]
W4 = Scheme(4, 32, True)


def mixed(name: str) -> Scheme | None:
    """Give layers different schemes, and keep some."""
    if name.endswith(("v_proj", "dense_4h_to_h")):
        return None
    if name.endswith(("down_proj", "c_proj", "fc2", "o_proj")):
        return Scheme(3, 48, False)
    return Scheme(5, PER_CHANNEL, True)


CASES = {
    "llama": lambda name: W4,
    "qwen2": lambda name: Scheme(2, 16, False),  # biases
    "gpt2": mixed,  # Conv1D, biases, tied embeddings
    "gemma2": lambda name: Scheme(8, PER_TENSOR, True),  # tied embeddings
    "opt": mixed,
    "bloom": mixed,
    "phi3": lambda name: Scheme(6, 64, True),
    "gpt_neox": lambda name: Scheme(7, 32, False),  # names that transformers converts
    "mixtral": mixed,  # experts kept
    "apertus": lambda name: W4,  # buffers in the checkpoint
}


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(input_ids=ids, use_cache=False).logits
    return out


@pytest.mark.parametrize("kind", CASES)
def test_a_loaded_model_is_the_one_that_was_quantized(
    kind: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    layers = write_quantized(checkpoint(kind), folder, CASES[kind])
    packed = load(folder, device="cpu", dtype=torch.float32)
    found = {name for name, module in packed.named_modules() if isinstance(module, QuantLinear)}
    assert found == set(layers)
    ids = token_ids(2, 24)
    expected = logits(dense_model(checkpoint(kind), layers), ids)
    dense = load(folder, device="cpu", dtype=torch.float32, dense=True)
    assert not any(isinstance(module, QuantLinear) for module in dense.modules())
    got = logits(dense, ids)
    if kind == "gpt2":
        # Conv1D sums in another order.
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(got, expected)
    # Packed products round activations to 16 bits, or sum in another order.
    torch.testing.assert_close(logits(packed, ids), got, rtol=2e-3, atol=2e-3)
    # Quantizing changed something at all.
    assert not torch.allclose(got, logits(dense_model(checkpoint(kind), {}), ids), atol=1e-3)


@pytest.fixture
def quantized(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """Return a quantized llama."""
    write_quantized(checkpoint("llama"), tmp_path / "out", lambda name: W4)
    return tmp_path / "out"


@pytest.mark.parametrize("dense", [False, True])
def test_nothing_is_left_empty_or_trainable(quantized: Path, dense: bool) -> None:
    model = load(quantized, device="cpu", dense=dense)
    assert not model.training
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert not tensor.is_meta, name
    assert not any(p.requires_grad for p in model.model.layers.parameters())


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "opt"])
def test_tied_embeddings_stay_tied(kind: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_quantized(checkpoint(kind), tmp_path / "out", lambda name: W4)
    model = load(tmp_path / "out", device="cpu")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not model.lm_head.weight.is_meta


@pytest.mark.parametrize("dense", [False, True])
def test_it_generates_what_the_dense_model_does(
    dense: bool, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    layers = write_quantized(checkpoint("qwen2"), tmp_path / "out", lambda name: W4)
    model = load(tmp_path / "out", device="cpu", dtype=torch.float32, dense=dense)
    ids = token_ids(1, 6)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2}
    expected = dense_model(checkpoint("qwen2"), layers).generate(ids, **options)
    assert torch.equal(model.generate(ids, **options), expected)
    assert expected.shape[1] > 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_dtype_can_be_chosen(quantized: Path, dtype: torch.dtype) -> None:
    ids = token_ids(1, 8)
    exact = logits(load(quantized, device="cpu", dtype=torch.float32), ids)
    for dense in (False, True):
        model = load(quantized, device="cpu", dtype=dtype, dense=dense)
        assert model.model.embed_tokens.weight.dtype == dtype
        got = logits(model, ids)
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), exact, rtol=0.1, atol=0.1)
    packed = load(quantized, device="cpu", dtype=dtype)
    state = packed.state_dict()
    assert state["model.layers.0.mlp.up_proj.scales"].dtype == torch.float16


def edit_config(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **entries}), encoding="utf-8")


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_folder_that_is_not_quantized_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match="is not quantized: its config has no quantization_config"):
        load(checkpoint("llama"), device="cpu")


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load(tmp_path / "nowhere", device="cpu")


def test_an_unknown_device_is_refused(quantized: Path) -> None:
    with pytest.raises(DeviceError, match="no backend named 'abacus'"):
        load(quantized, device="abacus")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"packing_format": "auto_round:marlin"}, "packing_format is 'auto_round:marlin'"),
        ({"quant_method": "fp8"}, "quant_method is 'fp8'"),
        ({"bits": 11}, "bits of the model is 11"),
        ({"rotation_config": {"algorithm": "hadamard"}}, "rotation_config says that inputs"),
    ],
)
def test_configs_of_other_formats_are_refused(
    quantized: Path, keys: dict[str, Any], message: str
) -> None:
    config = json.loads((quantized / "config.json").read_text(encoding="utf-8"))
    edit_config(quantized, quantization_config={**config["quantization_config"], **keys})
    with pytest.raises(FormatError, match=message):
        load(quantized, device="cpu")


@pytest.mark.parametrize("dtype", ["nn", "no-such-dtype", "Tensor"])
def test_an_illegal_dtype_is_refused(quantized: Path, dtype: str) -> None:
    edit_config(quantized, dtype=dtype)
    with pytest.raises(ModelError, match=r"dtype is '.*'; legal|cannot be built"):
        load(quantized, device="cpu")


LAYER = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{LAYER}.qweight", f"tensor {LAYER}.qweight is missing"),
        (f"{LAYER}.scales", f"tensor {LAYER}.scales is missing"),
        ("model.norm.weight", "tensor model.norm.weight should have shape .*nothing"),
        ("lm_head.weight", "layer lm_head: .*neither its codes nor its weight"),
    ],
)
def test_a_missing_tensor_is_named(quantized: Path, name: str, message: str) -> None:
    edit_tensors(quantized, lambda tensors: tensors.pop(name))
    with pytest.raises(FormatError, match=message):
        load(quantized, device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{LAYER}.qzeros", f"layer {LAYER}: .*zero points .*do not fit a weight"),
        (
            "model.embed_tokens.weight",
            r"tensor model.embed_tokens.weight should have shape \(.*\(.*\)",
        ),
    ],
)
def test_a_tensor_of_another_shape_is_named(quantized: Path, name: str, message: str) -> None:
    edit_tensors(quantized, lambda t: t.update({name: t[name][1:].contiguous()}))
    with pytest.raises(FormatError, match=message):
        load(quantized, device="cpu")


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_tensor_of_another_dtype_is_named_before_it_is_used(
    quantized: Path, part: str, dense: bool
) -> None:
    name = f"{LAYER}.{part}"
    edit_tensors(quantized, lambda t: t.update({name: t[name].to(torch.int64)}))
    with pytest.raises(FormatError, match=rf"{LAYER}.*{part}.*int64"):
        load(quantized, device="cpu", dense=dense)


def test_a_truncated_file_is_refused(quantized: Path) -> None:
    path = quantized / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is damaged"):
        load(quantized, device="cpu")


def test_shards_are_read(quantized: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    shutil.copy(quantized / "config.json", sharded)
    tensors = load_file(quantized / "model.safetensors")
    weight_map: dict[str, str] = {}
    for i in range(3):
        part = dict(list(tensors.items())[i::3])
        save_file(part, sharded / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(part, f"model-{i}.safetensors")
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    ids = token_ids(1, 8)
    one, three = load(quantized, device="cpu"), load(sharded, device="cpu")
    assert torch.equal(logits(one, ids), logits(three, ids))


def test_half_a_group_at_the_end_of_a_row(checkpoint: Checkpoint, tmp_path: Path) -> None:
    layers = write_quantized(
        checkpoint("llama"), tmp_path / "out", lambda name: Scheme(4, 64, True)
    )
    down = layers[LAYER]  # 96 inputs: a whole group and half a one
    assert down.scale.shape == (64, 2)
    loaded = load(tmp_path / "out", device="cpu", dense=True)
    module = loaded.get_submodule(LAYER)
    assert isinstance(module, nn.Linear)
    assert module.weight.shape == (64, 96)
