"""What fuzz.py feeds damaged files to: the readers of this package, and files that are right."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from safetensors.torch import save

#: Folders of files that are right, or were found to be read wrongly: a folder for each target.
CORPUS = Path(__file__).resolve().parents[1] / "tests" / "corpus"


class Target(NamedTuple):
    """Something that reads files.

    seeds: files that are right. read: is given a folder to write one into, and its bytes. as_json:
    whether values inside are changed as well as bytes.
    """

    seeds: tuple[bytes, ...]
    read: Callable[[Path, bytes], object]
    as_json: bool = False


def targets() -> dict[str, Target]:
    """Return what is fed, by name."""
    return {
        "recipe": Target(_recipes(), _read_recipe),
        "config": Target(_configs(), _read_config, as_json=True),
        "quantization": Target(_quantizations(), _read_quantization, as_json=True),
        "index": Target((_index(),), _read_index, as_json=True),
        "header": Target((_tensors(),), _read_header),
        "gguf": Target((_gguf(),), _read_gguf),
        "record": Target((_record(),), _read_record),
        "journal": Target((_journal(),), _read_journal, as_json=True),
        "unit": Target((_unit(),), _read_unit, as_json=True),
        "scores": Target((_scores(),), _read_scores, as_json=True),
        "dataset": Target(_rows(), _read_dataset),
        "images": Target((_pairs(),), _read_pairs),
        "tokenizer": Target((_tokenizer(),), _read_tokenizer, as_json=True),
        "templates": Target(_templates(), _read_templates, as_json=True),
        "patterns": Target(_patterns(), _read_patterns, as_json=True),
    }


def corpus(name: str) -> list[Path]:
    """Return the files of the corpus for a target."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def _recipes() -> tuple[bytes, ...]:
    folder = Path(__file__).resolve().parents[1] / "recipes"
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.yaml")))


def _read_recipe(folder: Path, data: bytes) -> object:
    from autoround.recipe.load import load_recipe

    (folder / "recipe.yaml").write_bytes(data)
    return load_recipe(folder / "recipe.yaml")


def _configs() -> tuple[bytes, ...]:
    from transformers import AutoConfig

    names = ("llama", "mixtral", "qwen3_next", "gpt2", "deepseek_v3")
    return tuple(AutoConfig.for_model(n).to_json_string(use_diff=False).encode() for n in names)


def _read_config(folder: Path, data: bytes) -> object:
    from autoround.model.files.locate import read_config, read_quantization, refuse_unquantizable

    (folder / "config.json").write_bytes(data)
    config = read_config(folder)
    read_quantization(folder, config)
    refuse_unquantizable(config, where="x")
    return config


def _quantizations() -> tuple[bytes, ...]:
    group = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
    values: list[dict[str, Any]] = [
        {
            **{"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": True},
            "packing_format": "auto_round:auto_gptq",
            "extra_config": {"l.0.q": {"bits": 4, "group_size": 32}, r".*v$": {"bits": 16}},
            "block_name_to_quantize": "l",
        },
        {
            **{"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False},
            "dynamic": {r"+:^l\.0\.q$": {"bits": 4}, r"-:.*v$": {}},
        },
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
        {
            **{"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "config_groups": {"g": {"targets": ["Linear", "re:.*q$"], "weights": group}},
            "ignore": ["lm_head", "re:.*v$"],
        },
    ]
    return tuple(json.dumps(value).encode() for value in values)


def _read_quantization(folder: Path, data: bytes) -> object:
    from autoround.formats.unpacking import UnpackingSource
    from autoround.model.files.source import CheckpointSource

    try:
        quantization = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(quantization, dict):
        return None
    layout = next((x for x in ("awq", "compressed-tensors") if x.encode() in data), "gptq")
    (folder / "model.safetensors").write_bytes(_two_layers(layout))
    source = UnpackingSource(CheckpointSource(folder), quantization)
    return source.read([name for name in source.headers() if name.endswith(".weight")])


def _two_layers(layout: str) -> bytes:
    """Return a file of two layers of 64 x 64 in groups of 32, all codes 0."""
    words = torch.zeros((8, 64), dtype=torch.int32)
    zeros, scales = torch.zeros((2, 8), dtype=torch.int32), torch.ones((2, 64)).half()
    parts = {
        "gptq": {"qweight": words, "qzeros": zeros, "scales": scales},
        "awq": {"qweight": words.t(), "qzeros": zeros, "scales": scales},
        "compressed-tensors": {
            "weight_packed": words.t(),
            "weight_scale": scales.t(),
            "weight_shape": torch.tensor([64, 64]),
        },
    }[layout]
    tensors = {f"l.0.{name}.{part}": t for name in "qk" for part, t in parts.items()}
    return save({name: tensor.clone().contiguous() for name, tensor in tensors.items()})


def _index() -> bytes:
    weight_map = {"a.weight": "model.safetensors", "b.weight": "model.safetensors"}
    return json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map}).encode()


def _read_index(folder: Path, data: bytes) -> object:
    from autoround.model.files.source import CheckpointSource

    (folder / "model.safetensors").write_bytes(_tensors())
    (folder / "model.safetensors.index.json").write_bytes(data)
    return CheckpointSource(folder).headers()


def _tensors() -> bytes:
    return save({"a.weight": torch.ones(4, 8), "b.weight": torch.ones(3, dtype=torch.bfloat16)})


def _read_header(folder: Path, data: bytes) -> object:
    from autoround.model.files.source import CheckpointSource

    (folder / "model.safetensors").write_bytes(data)
    source = CheckpointSource(folder)
    return source.read(source.headers())


def _gguf() -> bytes:
    import gguf
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        writer: Any = gguf.GGUFWriter(str(path), "llama")
        writer.add_uint32("a.number", 7)
        writer.add_string("a.text", "héllo")
        writer.add_array("a.texts", ["one", "two", ""])
        writer.add_array("a.floats", [1.0, 2.0])
        writer.add_tensor("weight", np.arange(64, dtype=np.float32).reshape(2, 32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _read_gguf(folder: Path, data: bytes) -> object:
    from autoround.gguf.opened import open_file

    (folder / "m.gguf").write_bytes(data)
    return [tensor.data.sum() for tensor in open_file(folder / "m.gguf").tensors]


def _record() -> bytes:
    from autoround.resume.records import write_record

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r"
        write_record(path, {"a": torch.ones(3)}, {"index": 0, "name": "b.0"})
        return path.read_bytes()


def _read_record(folder: Path, data: bytes) -> object:
    from autoround.resume.records import read_record

    (folder / "r").write_bytes(data)
    return read_record(folder / "r")


def _rows() -> tuple[bytes, ...]:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]
    parts = [{"type": "text", "text": "b"}]
    rows: list[dict[str, Any]] = [
        {"text": "a text"},
        {"messages": chat, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        {"instruction": "do", "input": "", "output": "done"},
        {"prompt": "a", "completion": [{"role": "assistant", "content": parts}]},
    ]
    return tuple((json.dumps(row) + "\n").encode() * 3 for row in rows)


def _read_dataset(folder: Path, data: bytes) -> object:
    from autoround.data.sources import open_source
    from autoround.data.spec import parse_datasets

    (folder / "d.jsonl").write_bytes(data)
    (spec,) = parse_datasets(str(folder / "d.jsonl"))
    return list(open_source(spec).records())


def _journal() -> bytes:
    from autoround.resume.journal import LAYOUT

    return json.dumps(
        {"layout": LAYOUT, "streams": "w/out-01234567.streams", "model": "m", "recipe": {"bits": 4}}
    ).encode()


def _read_journal(folder: Path, data: bytes) -> object:
    from autoround.resume.journal import LAYOUT, RUN, Journal

    # Files of the corpus stay: behind an older layout nothing of them would be read.
    data = re.sub(rb'("layout": ?)[1-9]\b', rb"\g<1>%d" % LAYOUT, data)
    # Whoever takes a journal locks it, and leaves the lock there.
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        journal = Journal(Path(scratch) / "out")
        journal.folder.mkdir()
        (journal.folder / RUN).write_bytes(data)
        try:
            return journal.open(), journal.of_pass(1).done
        finally:
            journal.release()


def _unit() -> bytes:
    """Return what a record says beside its tensors, of a unit of one packed layer."""
    from autoround.resume.records import record_weights
    from autoround.session.packed_weights import pack_weights
    from autoround.types import BlockResult, QuantizedTensor, Scheme

    codes = torch.arange(64, dtype=torch.uint8).reshape(2, 32) % 16
    layer = QuantizedTensor(codes, torch.ones(2, 1), torch.zeros(2, 1), Scheme(4, 32, True))
    result = dataclasses.asdict(BlockResult(0, "b.0", 0.2, 0.1, 0.5, 3, 2, 9))
    facts = {
        "layers": record_weights(pack_weights({"q": layer}, {}, ""))[1],
        "result": result,
        "source": 0,
    }
    return json.dumps(facts).encode()


def _read_unit(folder: Path, data: bytes) -> object:
    from autoround.resume.journal import PassJournal
    from autoround.resume.records import write_record

    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        return None
    words = torch.zeros((4, 2), dtype=torch.int32)
    tensors = {"q|codes": words, "q|scale": torch.ones(2, 1), "q|zero": torch.zeros(2, 1)}
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        journal = PassJournal(Path(scratch) / "pass-1", Path(scratch))
        write_record(Path(scratch) / "pass-1" / "00000.safetensors", tensors, facts)
        return journal.read(0, {}, source=None)


def _scores() -> bytes:
    losses = {"model.layers.0.q": {"w4g32": 0.5, "w2g32": None}}
    identity = {"scores": 1, "method": "fisher"}
    facts = {"identity": identity, "tokens": 7, "seconds": 0.5, "peak_bytes": 9, "losses": losses}
    return json.dumps(facts).encode()


def _read_scores(folder: Path, data: bytes) -> object:
    from autoround.mixed_precision.score_file import load_scores

    (folder / "scores.json").write_bytes(data)
    return load_scores(folder / "scores.json", identity={"scores": 1, "method": "fisher"})


def _pairs() -> bytes:
    pairs = [{"image": "a.png", "text": "a"}, {"images": ["a.png", "a.png"], "text": "b"}]
    return "\n".join(map(json.dumps, pairs)).encode()


def _read_pairs(folder: Path, data: bytes) -> object:
    from autoround.data.images import read_pairs

    (folder / "a.png").touch()
    (folder / "p.jsonl").write_bytes(data)
    return read_pairs(folder / "p.jsonl")


def _tokenizer() -> bytes:
    vocabulary = {"<unk>": 0, "<s>": 1, "a": 2, "b": 3, "ab": 4, "\u0120": 5}
    added = {"id": 1, "content": "<s>", "special": True, "lstrip": False, "rstrip": False}
    split = {"type": "Split", "pattern": {"Regex": "\\s+|\\w+"}, "behavior": "Isolated"}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    content = {
        "added_tokens": [added],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]], "unk_token": None},
    }
    return json.dumps(content).encode()


def _read_tokenizer(folder: Path, data: bytes) -> object:
    from autoround.errors import FormatError
    from autoround.gguf.tokenizer import tokenizer_metadata
    from autoround.planning.gguf import tokenizer_notes

    (folder / "tokenizer.json").write_bytes(data)
    notes = tokenizer_notes(folder)
    backend = SimpleNamespace(to_str=lambda: data.decode("utf-8", "replace"))
    tokenizer = SimpleNamespace(backend_tokenizer=backend, encode=lambda text: [1, 2])
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return notes  # the tokenizers library gives JSON
    try:
        return tokenizer_metadata(tokenizer, vocab_size=8, config={})
    except FormatError:
        return notes


def _templates() -> tuple[bytes, ...]:
    named = [{"name": "default", "template": "{{ messages }}"}, {"name": "rag", "template": "x"}]
    values: list[Any] = ["{{ messages }}", named, {"default": "a", "tool_use": "b"}, None]
    return tuple(json.dumps({"templates": value}).encode() for value in values)


def _read_templates(folder: Path, data: bytes) -> object:
    from autoround.gguf.templates import template_fields

    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return template_fields(value.get("templates") if isinstance(value, Mapping) else value)


def _patterns() -> tuple[bytes, ...]:
    values = [r"model\.layers\.\d+\.q_proj", ".*v$", "(a|b)*c", "[^.]*", r"(?:x+)+y"]
    return tuple(json.dumps({"pattern": v, "name": "model.layers.0.q"}).encode() for v in values)


def _read_patterns(folder: Path, data: bytes) -> object:
    from autoround.errors import FormatError
    from autoround.patterns import PatternError, matches

    try:
        value = json.loads(data)
        pattern, name = str(value["pattern"]), str(value["name"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    try:
        return matches(pattern, name), matches(pattern, name, anywhere=True)
    except PatternError as error:
        raise FormatError(str(error)) from None
