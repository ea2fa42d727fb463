"""Whole folders: loading, scoring and continuing a prompt."""
# Tests: autoround/evaluate/compare.py
# Tests: autoround/evaluate/generate.py

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround.errors import DataError, FormatError, ModelError, UsageError
from autoround.evaluate.bench import bench
from autoround.evaluate.compare import compare
from autoround.evaluate.generate import Continuation, Difference, first_difference, generate
from autoround.evaluate.models import load_any, load_runnable
from autoround.evaluate.perplexity import evaluate
from autoround.model.files.tokenizer import load_tokenizer
from autoround.types import Scheme

from ...tiny import make_tokenizer
from ...tiny_quantized import dense_model, write_quantized

Checkpoint = Callable[[str], Path]
TEXT = "The quick brown fox jumps over the lazy dog. " * 4


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """Return a quantized llama with its tokenizer."""
    write_quantized(checkpoint("llama"), tmp_path / "out", lambda name: Scheme(2, 32, True))
    make_tokenizer().save_pretrained(tmp_path / "out")
    return tmp_path / "out"


def test_quantized_and_plain_folders_are_loaded_in_float32(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    short = tmp_path / "short"
    load_any(checkpoint("llama"), device="cpu").bfloat16().save_pretrained(short)
    for path in (folder, checkpoint("llama"), short):
        model = load_any(path, device="cpu")
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not model.training


def test_a_config_without_quantization_may_say_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(checkpoint("llama"), plain)
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**config, "quantization_config": None}))
    assert not load_any(plain, device="cpu").training


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", "damaged"),
        ("config.json", '{"model_type": "no-such-model"}'),
        ("config.json", '{"model_type": "llama", "num_hidden_layers": "two"}'),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_refused(
    file: str, content: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint("llama"), broken)
    (broken / file).write_text(content)
    with pytest.raises(ModelError, match=r"broken.* (cannot be (loaded|built)|is damaged)"):
        load_any(broken, device="cpu")


def test_pickled_weights_are_never_opened(checkpoint: Checkpoint, tmp_path: Path) -> None:
    pickled, opened = tmp_path / "pickled", tmp_path / "opened"
    shutil.copytree(checkpoint("llama"), pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(Trap(opened), pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"it has pytorch_model.bin: convert to safetensors"):
        load_any(pickled, device="cpu")
    with pytest.raises(ModelError, match=r"it has pytorch_model.bin: convert to safetensors"):
        generate(pickled, "hello", device="cpu")
    assert not opened.exists()


def test_a_damaged_quantized_folder_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["packing_format"] = "another"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="packing_format is 'another'"):
        load_any(folder, device="cpu")


def test_a_folder_without_tokenizer_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    shutil.copy(checkpoint("llama") / "config.json", tmp_path)
    with pytest.raises(DataError, match="has no tokenizer that can be loaded"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "odd"}}'])
def test_a_damaged_tokenizer_is_refused(
    content: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match="has no tokenizer that can be loaded"):
        load_tokenizer(tmp_path / "m")


def test_compare_scores_a_folder_against_its_original(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    result = compare(folder, checkpoint("llama"), text=text, seqlen=32, device="cpu")
    ids = torch.tensor(make_tokenizer().encode(TEXT))
    quantized, original = load_any(folder, device="cpu"), load_any(checkpoint("llama"))
    assert result == evaluate(quantized, ids, seqlen=32, reference=original)
    assert result.kl is not None
    assert result.kl > 0.01
    alone = compare(folder, text=text, seqlen=32, device="cpu")
    assert alone == evaluate(quantized, ids, seqlen=32)
    assert alone.perplexity == result.perplexity
    few = compare(folder, text=text, seqlen=32, max_tokens=40, device="cpu")
    assert few.tokens == 31 + 7


def test_compare_has_a_text_of_its_own(folder: Path) -> None:
    result = compare(folder, seqlen=32, max_tokens=100, device="cpu")
    assert result.tokens == 3 * 31 + 3
    assert result.perplexity > 1


def test_generate_continues_greedily(folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    layers = write_quantized(
        checkpoint("llama"), tmp_path / "again", lambda name: Scheme(2, 32, True)
    )
    model, tokenizer = dense_model(checkpoint("llama"), layers), make_tokenizer()
    ids = tokenizer("Hello", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=2)
    expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    pieces: list[str] = []
    text = generate(folder, "Hello", max_new_tokens=8, device="cpu", on_text=pieces.append)
    assert text == expected != ""
    assert "".join(pieces) == expected
    assert generate(folder, "Hello", max_new_tokens=8, device="cpu") == expected


def test_the_original_is_gone_before_the_result_is_loaded(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    loaded: list[Any] = []
    empty: list[bool] = []

    def watch(model: Any, **options: Any) -> Any:
        blocks = [p for one in loaded for p in one.model.layers.parameters()]
        empty.append(all(p.is_meta for p in blocks))
        loaded.append(load_any(model, **options))
        return loaded[-1]

    monkeypatch.setattr("autoround.evaluate.compare.load_any", watch)
    told: list[tuple[int, int]] = []
    result = compare(
        folder, checkpoint("llama"), text=text, seqlen=32, max_tokens=64, device="cpu",
        on_window=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    assert empty == [True, True]
    assert [type(one).__name__ for one in loaded] == ["LlamaForCausalLM"] * 2
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert result.tokens == 62


def test_two_continuations_part_at_a_token(checkpoint: Checkpoint) -> None:
    tokenizer = load_tokenizer(checkpoint("llama"))

    def written(text: str, *more: int) -> Continuation:
        return Continuation((*tokenizer.encode(text, add_special_tokens=False), *more), text)

    one = written("the fox")
    assert first_difference(one, written("the fox"), tokenizer) is None
    assert first_difference(one, written("the dog"), tokenizer) == Difference(4, (4, 5), (4, 5))
    assert first_difference(one, written("the"), tokenizer) == Difference(3, (3, 4), (3, 3))
    # A special token is not shown.
    assert first_difference(one, written("the", 1), tokenizer) == Difference(3, (3, 4), (3, 3))


def test_generate_wraps_a_chat_turn(folder: Path) -> None:
    wrapped = "<user> Hello <assistant>"
    assert generate(folder, "Hello", max_new_tokens=6, chat=True, device="cpu") == generate(
        folder, wrapped, max_new_tokens=6, device="cpu"
    )


def test_generate_refuses_what_makes_no_sense(folder: Path) -> None:
    with pytest.raises(UsageError, match="the prompt is empty"):
        generate(folder, "", device="cpu")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="has no chat template; leave out --chat"):
        generate(folder, "Hello", chat=True, device="cpu")


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_more_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))


def in_fp8_without_scales(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] += 32
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage", [without_a_tensor, with_more_layers, in_fp8_without_scales, with_another_width]
)
def test_no_weight_is_made_up(
    damage: Callable[[Path], None], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint("llama"), broken)
    make_tokenizer().save_pretrained(broken)
    damage(broken)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    with pytest.raises(ModelError):
        compare(broken, text=text, seqlen=16, device="cpu")
    with pytest.raises(ModelError):
        compare(checkpoint("llama"), broken, text=text, seqlen=16, device="cpu")
    with pytest.raises(ModelError):
        generate(broken, "The", device="cpu")
    with pytest.raises(ModelError):
        bench(broken, device="cpu")


def test_packed_layers_that_the_config_denies_are_no_plain_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    for file in folder.glob("quant*_config.json"):
        file.unlink()
    with pytest.raises(ModelError, match="lacks .* tensors of its model class"):
        generate(folder, "The", device="cpu")


@pytest.mark.parametrize("packed", [False, True])
def test_generation_ends_where_the_folder_says(
    packed: bool, folder: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(checkpoint("llama"), plain)
    chosen = folder if packed else plain
    (chosen / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert load_any(chosen, device="cpu").generation_config.eos_token_id == [7, 9]
    assert load_runnable(chosen, device="cpu").generation_config.eos_token_id == [7, 9]


def test_a_broken_generation_config_is_named(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[")
    with pytest.raises(ModelError, match="generation_config"):
        load_any(folder, device="cpu")


def test_an_unquantized_model_takes_the_dtype_that_is_asked_for(checkpoint: Checkpoint) -> None:
    model = load_any(checkpoint("llama"), device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
