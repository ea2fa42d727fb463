"""Feed damaged files to what reads them: fuzz.py [MINUTES] [--only WORD] [--seed N] [--found DIR].

Files that are right (recipes, configs, indexes, headers, GGUF, journals, records, datasets,
configs of quantized models) are changed at random: bytes flipped, cut, doubled and swapped, numbers
made huge, values exchanged for others. Reading one has to end, in SECONDS and within MEMORY, with a
result or with an error of this package. Whatever else comes is written to --found as a file, and
ends the command with 1. Prints how many inputs each reader was given.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save

from autoround.errors import AutoRoundError

#: Seconds that one input may take, and bytes of memory that the process may hold.
SECONDS, MEMORY = 10, 8 << 30
#: What numbers and texts are exchanged for.
NUMBERS = (0, -1, 1, 2, 255, 2**31, 2**32, 2**53, 2**63, 2**64 - 1, 10**30, 1e308, -0.5)
OTHERS: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\x1b[2J", "\u202e", "(a+)+$", "../x", "/etc/passwd"),
    *([], {}, [[]], {"": None}, "x" * 5000, "\ud800"),
)
#: Bytes that readers look for.
WORDS = (
    *(b"\xff" * 8, b"\0" * 8, b"{", b"[" * 200, b'"', b"\n", b"1e999", b"- " * 50),
    *(b"\\u0000", b'"\\U00110000"', b"\\x", b"&a *a", b"!!python/object:os.system x"),
)


class Target(NamedTuple):
    """Something that reads files.

    seeds: files that are right. read: is given a folder to write one into, and its bytes. as_json:
    whether values inside are changed as well as bytes.
    """

    seeds: tuple[bytes, ...]
    read: Callable[[Path, bytes], object]
    as_json: bool = False


class TooLongError(Exception):
    """An input took longer than it may."""


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with a few changes.

    Args:
        data: a file that is right.
        rng: draws the changes.
    """
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, size = rng.randrange(len(changed) + 1), rng.choice((1, 2, 4, 8, 32))
        match rng.randrange(7):
            case 0:
                changed[at : at + size] = rng.randbytes(size)
            case 1:
                del changed[at : at + size * 4]
            case 2:
                changed[at:at] = rng.choice(WORDS)
            case 3:
                changed[at : at + 8] = struct.pack("<Q", rng.choice((2**63, 2**40, 2**32, 7)))
            case 4:
                other = rng.randrange(len(changed) + 1)
                changed[at:at] = changed[other : other + size * 8]
            case 5 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case _:
                changed = changed[:at]
    return bytes(changed)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON with a few values exchanged, added or gone.

    Args:
        data: JSON that is right.
        rng: draws the changes.
    """
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(list_places(value))
        if not places:
            break
        parent, key = rng.choice(places)
        match rng.randrange(4):
            case 0:
                parent[key] = rng.choice(NUMBERS)
            case 1:
                parent[key] = copy.deepcopy(rng.choice(OTHERS))
            case 2 if isinstance(parent, dict):
                del parent[key]
            case _:
                # A value from elsewhere in the same file.
                other, place = rng.choice(places)
                there = isinstance(other, dict) and place in other
                parent[key] = copy.deepcopy(other[place]) if there else rng.choice(NUMBERS)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def list_places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from list_places(item)


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
        "dataset": Target(_rows(), _read_dataset),
    }


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
    except ValueError:
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
    from autoround.gguf.container import open_file

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


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def ring(number: int, frame: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, ring)


def try_one(target: Target, folder: Path, data: bytes) -> str:
    """Give a reader one input.

    Args:
        target: the reader.
        folder: empty; what it writes there is deleted.
        data: the file's content.

    Returns:
        What came that must not, in words; empty where nothing did.
    """
    signal.alarm(SECONDS)
    try:
        target.read(folder, data)
    except AutoRoundError as error:
        # Said to people, so it has to be text that can be said.
        return "" if str(error).strip() else "an error without words"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        for path in folder.iterdir():
            path.unlink()
    return ""


def main() -> None:
    """Fuzz for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float, nargs="?", default=1.0)
    parser.add_argument("--only", default="", help="readers with that in their names")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--found", type=Path, default=Path("out/fuzz"))
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    rng, tries, kinds = random.Random(seed), Counter[str](), Counter[str]()
    chosen = {name: t for name, t in targets().items() if args.only in name}
    _limit()
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < end:
            for name, target in chosen.items():
                seed_file = rng.choice(target.seeds)
                by_value = target.as_json and rng.random() < 0.7
                data = mutate_json(seed_file, rng) if by_value else mutate(seed_file, rng)
                tries[name] += 1
                wrong = try_one(target, Path(scratch), data)
                if wrong:
                    kind = f"{name}: {wrong[:60]}"
                    kinds[kind] += 1
                    if kinds[kind] == 1:
                        args.found.mkdir(parents=True, exist_ok=True)
                        digest = hashlib.sha256(data).hexdigest()[:12]
                        (args.found / f"{name}-{digest}").write_bytes(data)
                        print(f"{name}-{digest}: {wrong}", flush=True)
    print(f"seed {seed}: {sum(tries.values())} inputs, {len(kinds)} findings; {dict(tries)}")
    sys.exit(bool(kinds))


if __name__ == "__main__":
    main()
