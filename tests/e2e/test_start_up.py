"""Commands that read headers import nothing that runs a model, and print what they did with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround.checkpoints import known_layers
from autoround.checkpoints.convert import convert
from autoround.cli.main import run
from autoround.model.files.stored import INDEX, SINGLE
from autoround.types import Scheme

from ..foreign import write_base, write_foreign
from ..scripts import import_paths, run_script
from ..tiny_quantized import write_quantized

#: What takes seconds to import.
HEAVY = ("torch", "transformers", "datasets", "accelerate")
#: Runs commands where none of them can be imported; the last line says how each ended.
SCRIPT = f"""
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
for name in {HEAVY}:
    sys.modules[name] = None
from autoround.cli.main import run
found = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(words)
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""
FORMATS = ("auto_gptq", "gptq_v2", "auto_awq", "compressed-tensors", "mlx", "fake")
W4, W2 = Scheme(4, 32, True), Scheme(2, 32, False)
UP = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def folders(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Write a folder of each kind of checkpoint, by its name."""
    root = tmp_path_factory.mktemp("kinds")
    found = {"plain": checkpoint("llama"), "gpt2": checkpoint("gpt2"), "gguf": root / "gguf"}
    for kind in ("llama", "mistral", "qwen2", "qwen3"):
        found[kind] = root / kind
        write_quantized(checkpoint(kind), found[kind], lambda _: W4)
    found["mixed"] = root / "mixed"
    write_quantized(
        checkpoint("qwen2"), found["mixed"], lambda name: W2 if "q_proj" in name else W4
    )
    for name in FORMATS:
        found[name] = root / name
        convert(found["llama"], found[name], formats=[name])
    base = write_base("qwen3_moe", root / "base")
    for name in ("auto_round-moe-gptq", "autoawq-moe"):
        found[name] = write_foreign(name, base, root / "foreign" / name).folder
    found["fp8"] = _write_fp8(checkpoint("llama"), root / "fp8")
    found["index"] = _write_indexed(found["llama"], root / "index")
    _write_gguf(found["gguf"])
    return found


def _write_fp8(source: Path, folder: Path) -> Path:
    folder.mkdir()
    tensors = load_file(source / SINGLE)
    for name in [name for name in tensors if "proj" in name]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.ones(1, 1)
    save_file(tensors, folder / SINGLE)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _write_indexed(source: Path, folder: Path) -> Path:
    folder.mkdir()
    tensors = load_file(source / SINGLE)
    save_file(tensors, folder / "a.safetensors")
    named = {"weight_map": dict.fromkeys(tensors, "a.safetensors")}
    (folder / INDEX).write_text(json.dumps(named))
    (folder / "config.json").write_text((source / "config.json").read_text())
    return folder


def _write_gguf(folder: Path) -> None:
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama")
    for name, kind in (("token_embd.weight", "F16"), ("blk.0.attn_q.weight", "Q4_0")):
        number = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(np.ones((8, 64), dtype=np.float32), number)
        writer.add_tensor(name, data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def without_heavy_imports(commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """Run commands where HEAVY cannot be imported; returns their codes and what they print."""
    found = run_script("-c", SCRIPT, json.dumps(commands), PYTHONPATH=import_paths())
    return [(code, out, err) for code, out, err in found]


def with_the_class(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, str, str]]:
    """Run commands by the model's class itself, whatever is written down of it."""
    monkeypatch.setattr(known_layers, "known_class", lambda config, folder: None)
    found = []
    for words in commands:
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run(words)
        found.append((code, out.getvalue(), err.getvalue()))
    return found


def test_headers_are_told_without_torch_and_as_with_the_class(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [["inspect", str(folder)] for folder in folders.values()]
    commands += [["inspect", str(folder), "--json", "--layers"] for folder in folders.values()]
    commands.append(["inspect", str(folders["gguf"] / "m.gguf")])
    for name in (*FORMATS[:-1], "llama", "qwen3", "mixed", "index", "auto_round-moe-gptq"):
        folder = str(folders[name])
        to = "auto_awq,gptq_v2,mlx,fake,compressed-tensors"
        commands.append(["convert", folder, "--to", to, "--dry-run"])
        commands.append(["convert", folder, "--to", "gguf:q4_0,auto_gptq", "--dry-run", "--json"])
    said = without_heavy_imports(commands)
    assert said == with_the_class(commands, monkeypatch)
    assert {code for code, _, _ in said} == {0, 7}


def test_what_cannot_be_read_is_refused_without_torch_in_the_same_words(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (folders["llama"] / "config.json").read_text()
    weights = (folders["llama"] / SINGLE).read_bytes()
    huge = config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1e9')
    contents: dict[str, dict[str, str | bytes]] = {
        "no config": {SINGLE: weights},
        "no weights": {"config.json": config},
        "no JSON": {"config.json": "{", SINGLE: weights},
        "cut off": {"config.json": config, SINGLE: weights[:-100]},
        "no header": {"config.json": config, SINGLE: b"\0" * 8},
        "long header": {"config.json": config, SINGLE: b"\xff" * 8 + weights[8:]},
        "way out": {"config.json": config, INDEX: '{"weight_map": {"a": "../a.safetensors"}}'},
        "not there": {"config.json": config, INDEX: '{"weight_map": {"a": "a.safetensors"}}'},
        "deep": {"config.json": config, INDEX: "[" * 100_000},
        "unfinished": {"config.json": config, SINGLE: weights, "INCOMPLETE": ""},
        "huge": {"config.json": huge},
        "no GGUF": {"m.gguf": b"GGUF" + b"\xff" * 40},
        "two GGUF": {"a.gguf": b"GGUF", "b.gguf": b"GGUF"},
    }
    commands = [["inspect", "/nowhere"], ["inspect", str(folders["llama"] / "config.json")]]
    for name, files in contents.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (folder / file).write_bytes(data)
        commands.append(["inspect", str(folder)])
        commands.append(["convert", str(folder), "--to", "mlx", "--dry-run"])
    said = without_heavy_imports(commands)
    assert said == with_the_class(commands, monkeypatch)
    assert all(code in (4, 7) for code, _, _ in said)


def test_a_part_that_is_missing_is_told_without_torch(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = load_file(folders["llama"] / SINGLE)
    del tensors[f"{UP}.scales"]
    save_file(tensors, tmp_path / SINGLE)
    (tmp_path / "config.json").write_bytes((folders["llama"] / "config.json").read_bytes())
    commands = [["inspect", str(tmp_path)], ["convert", str(tmp_path), "--to", "mlx", "--dry-run"]]
    said = without_heavy_imports(commands)
    assert said == with_the_class(commands, monkeypatch)
    assert all(f"tensor {UP}.scales is missing" in err for _, _, err in said)


def test_recipes_are_told_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [
        ["recipes", "list"],
        ["recipes", "show", "light"],
        ["recipes", "show", "light", "--resolved"],
        ["recipes", "validate", "recipes/light.yaml"],
        ["recipes", "show", "nope"],
    ]
    said = without_heavy_imports(commands)
    assert said == with_the_class(commands, monkeypatch)
    assert [code for code, _, _ in said] == [0, 0, 0, 0, 3]
