"""Damaged checkpoints: refused with a reason by each command that reads them, never taken."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from autoround.checkpoints.convert import convert
from autoround.checkpoints.inspect import inspect_folder
from autoround.errors import AutoRoundError
from autoround.inference.load import load
from autoround.model.files.locate import locate_model
from autoround.types import Scheme

from ..runs import even_device, tensors_of
from ..tiny_quantized import write_quantized

__all__ = ["even_device"]

#: Folders that are damaged, and a format to convert each to.
FAMILIES = {
    "auto_round": "auto_gptq",
    "auto_gptq": "gptq_v2",
    "auto_awq": "gptq_v2",
    "compressed-tensors": "auto_gptq",
}
COMMANDS = ("load", "convert", "inspect")
LAYER, OTHER = "model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
#: What a message must name: a layer or tensor, a file, the part of the config, or the folder.
NAMED = re.compile(r"model\.layers\.\d|\.safetensors|quantization_config|unfinished output")

Tensors = dict[str, Tensor]
Change = Callable[[Tensors, str], None]
Damage = Callable[[Path, str], None]


@pytest.fixture(scope="module")
def whole(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return a sound folder of each family, all with the same 4-bit codes."""
    root = tmp_path_factory.mktemp("whole")
    source = root / "auto_round"
    write_quantized(checkpoint("llama"), source, lambda name: Scheme(4, 32, False))
    others = [family for family in FAMILIES if family != "auto_round"]
    convert(source, root / "others", formats=others)
    return {"auto_round": source, **{name: root / "others" / name for name in others}}


def part(family: str, kind: str) -> str:
    """Return what a family calls codes, scales or zeros."""
    ours = {"codes": "weight_packed", "scales": "weight_scale", "zeros": "weight_zero_point"}
    gptq = {"codes": "qweight", "scales": "scales", "zeros": "qzeros"}
    return (ours if family == "compressed-tensors" else gptq)[kind]


def in_tensors(change: Change) -> Damage:
    """Make a damage of a change to the tensors of the only file."""

    def damage(folder: Path, family: str) -> None:
        tensors = tensors_of(folder)
        change(tensors, family)
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / FILE)

    return damage


def in_part(kind: str, change: Callable[[Tensor], Tensor]) -> Damage:
    """Make a damage of a change to one tensor of one layer."""

    def apply(tensors: Tensors, family: str) -> None:
        name = f"{LAYER}.{part(family, kind)}"
        tensors[name] = change(tensors[name])

    return in_tensors(apply)


def codes_swapped(tensors: Tensors, family: str) -> None:
    """Swap the codes of two layers of different shape."""
    one, other = (f"{layer}.{part(family, 'codes')}" for layer in (LAYER, OTHER))
    tensors[one], tensors[other] = tensors[other], tensors[one]


def layers_swapped(tensors: Tensors, family: str) -> None:
    """Swap all there is of two layers of different shape."""
    for name in [n for n in tensors if n.startswith(LAYER + ".")]:
        other = OTHER + name.removeprefix(LAYER)
        tensors[name], tensors[other] = tensors[other], tensors[name]


def renamed(kind: str) -> Damage:
    def apply(tensors: Tensors, family: str) -> None:
        name = f"{LAYER}.{part(family, kind)}"
        tensors[name + "_old"] = tensors.pop(name)

    return in_tensors(apply)


def configured(ours: str, theirs: str, value: object) -> Damage:
    """Change one key of the scheme in the config; compressed-tensors has other names."""

    def damage(folder: Path, family: str) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        keys: dict[str, Any] = config["quantization_config"]
        if family == "compressed-tensors":
            keys["config_groups"]["group_0"]["weights"][theirs] = value
        else:
            keys[ours] = value
        path.write_text(json.dumps(config), encoding="utf-8")

    return damage


def plain_tensors(tensors: Tensors, family: str) -> None:
    """Put a plain weight in the place of every quantized layer."""
    layers = [n.removesuffix("." + part(family, "codes")) for n in tensors]
    for layer in {name for name in layers if name not in tensors}:
        for name in [n for n in tensors if n.startswith(layer + ".")]:
            del tensors[name]
        tensors[layer + ".weight"] = torch.zeros(32, 32)


def truncated(folder: Path, family: str) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:-100])


def empty_file(folder: Path, family: str) -> None:
    (folder / FILE).write_bytes(b"")


def header_of_huge_size(folder: Path, family: str) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(struct.pack("<Q", 1 << 62) + content[8:])


def tensor_of_huge_size(folder: Path, family: str) -> None:
    """Let the header give one tensor a shape that no file could hold."""
    content = (folder / FILE).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header[f"{LAYER}.{part(family, 'codes')}"]["shape"] = [1 << 40, 1 << 20]
    changed = json.dumps(header).encode()
    (folder / FILE).write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])


def in_shards(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    """Split the file in two with an index, which is changed before it is written."""
    tensors = tensors_of(folder)
    (folder / FILE).unlink()
    held = {name: f"model-0000{1 + (LAYER in name)}-of-00002.safetensors" for name in tensors}
    for file in set(held.values()):
        save_file({n: t for n, t in tensors.items() if held[n] == file}, folder / file)
    change(held)
    (folder / INDEX).write_text(json.dumps({"weight_map": held}), encoding="utf-8")


def shard_missing(folder: Path, family: str) -> None:
    in_shards(folder, lambda held: None)
    (folder / "model-00002-of-00002.safetensors").unlink()


def index_points_outside(folder: Path, family: str) -> None:
    shutil.copy(folder / FILE, folder.parent / "outside.safetensors")
    name = f"{LAYER}.{part(family, 'codes')}"
    in_shards(folder, lambda held: held.update({name: "../outside.safetensors"}))


def index_points_elsewhere(folder: Path, family: str) -> None:
    name = f"{LAYER}.{part(family, 'codes')}"
    in_shards(folder, lambda held: held.update({name: held["model.norm.weight"]}))


def index_forgets(folder: Path, family: str) -> None:
    name = f"{LAYER}.{part(family, 'scales')}"
    in_shards(folder, lambda held: held.__delitem__(name))


def unfinished(folder: Path, family: str) -> None:
    (folder / "INCOMPLETE").write_text("", encoding="utf-8")


def unfinished_without_config(folder: Path, family: str) -> None:
    unfinished(folder, family)
    (folder / "config.json").unlink()


def with_value(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor[0, 0] = value
        return tensor

    return change


def in_order(change: Callable[[Tensor], Tensor]) -> Damage:
    def apply(tensors: Tensors, family: str) -> None:
        tensors[f"{LAYER}.g_idx"] = change(tensors[f"{LAYER}.g_idx"])

    return in_tensors(apply)


def a_layer_in_floats(tensors: Tensors, family: str) -> None:
    for name in [n for n in tensors if n.startswith(LAYER + ".")]:
        del tensors[name]
    tensors[LAYER + ".weight"] = torch.zeros(96, 64).to(torch.float8_e4m3fn)


ALL, PLAIN = tuple(FAMILIES), ("auto_round", "auto_gptq", "auto_awq")
GPTQ, COMPRESSED = ("auto_gptq",), ("compressed-tensors",)
#: Families where damage is tried that has nothing to do with their layout.
TWO = GPTQ + COMPRESSED
#: What shows without reading a weight, so that every command must see it.
OUTSIDE: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "truncated": (truncated, TWO),
    "empty": (empty_file, TWO),
    "huge header": (header_of_huge_size, TWO),
    "huge tensor": (tensor_of_huge_size, TWO),
    "shard missing": (shard_missing, TWO),
    "index points outside": (index_points_outside, TWO),
    "index points elsewhere": (index_points_elsewhere, TWO),
    "index forgets": (index_forgets, TWO),
    "unfinished": (unfinished, TWO),
    "unfinished, no config": (unfinished_without_config, TWO),
    "codes swapped": (in_tensors(codes_swapped), ALL),
    "layers swapped": (in_tensors(layers_swapped), ALL),
    "codes renamed": (renamed("codes"), ALL),
    "scales renamed": (renamed("scales"), ALL),
    "zeros renamed": (renamed("zeros"), TWO),
    "codes too long": (in_part("codes", lambda t: torch.cat([t, t[:4]])), ALL),
    "codes too wide": (in_part("codes", lambda t: torch.cat([t, t[:, :4]], dim=1)), TWO),
    "codes too short": (in_part("codes", lambda t: t[:-4]), ALL),
    "codes of one dimension": (in_part("codes", lambda t: t.flatten()), TWO),
    "scales too long": (in_part("scales", lambda t: torch.cat([t, t[:1]])), ALL),
    "scales too short": (in_part("scales", lambda t: t[:-1]), TWO),
    "zeros too long": (in_part("zeros", lambda t: torch.cat([t, t[:1]])), ALL),
    "codes int64": (in_part("codes", lambda t: t.long()), TWO),
    "codes float16": (in_part("codes", lambda t: t.half()), TWO),
    "scales int32": (in_part("scales", lambda t: t.int()), TWO),
    "zeros int8": (in_part("zeros", lambda t: t.to(torch.int8)), TWO),
    "zero points denied": (configured("sym", "symmetric", True), COMPRESSED),
    "order too short": (in_order(lambda t: t[:-1]), GPTQ),
    "order int64": (in_order(lambda t: t.long()), GPTQ),
    "bits 8": (configured("bits", "num_bits", 8), ALL),
    "bits 3": (configured("bits", "num_bits", 3), ALL),
    "bits in words": (configured("bits", "num_bits", "four"), TWO),
    "bits missing": (configured("bits", "num_bits", None), TWO),
    "group size 64": (configured("group_size", "group_size", 64), ALL),
    "group size 16": (configured("group_size", "group_size", 16), TWO),
    "group size 0": (configured("group_size", "group_size", 0), ALL),
    "group size -5": (configured("group_size", "group_size", -5), TWO),
    "plain tensors": (in_tensors(plain_tensors), ALL),
    "one layer in 8-bit floats": (in_tensors(a_layer_in_floats), ALL),
    "rotated inputs": (configured("transform_config", "type", "float"), TWO),
}
#: What shows only where weights are read, which ``inspect`` does not do.
INSIDE: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "scales nan": (in_part("scales", with_value(float("nan"))), ALL),
    "scales inf": (in_part("scales", with_value(float("inf"))), ALL),
    "order too high": (in_order(lambda t: t + 1), GPTQ),
    "order negative": (in_order(lambda t: t - 1), GPTQ),
}


def cases() -> Iterator[Any]:
    for table, commands in ((OUTSIDE, COMMANDS), (INSIDE, COMMANDS[:2])):
        for damage, (_, families) in table.items():
            for family in families:
                for command in commands:
                    yield pytest.param(damage, family, command)


def use(command: str, folder: Path, family: str) -> None:
    """Run a command on a folder; what it raises comes through."""
    if command == "load":
        load(folder, device="cpu", dtype=torch.float32, dense=True)
    elif command == "convert":
        convert(folder, folder.parent / "out", formats=[FAMILIES[family]])
    else:
        inspect_folder(locate_model(folder))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_sound_folder_is_taken(
    command: str, family: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(whole[family], tmp_path / "model")
    use(command, tmp_path / "model", family)


@pytest.mark.parametrize("family", TWO)
def test_a_sound_folder_in_shards_is_taken(
    family: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(whole[family], tmp_path / "model")
    in_shards(tmp_path / "model", lambda held: None)
    for command in COMMANDS:
        use(command, tmp_path / "model", family)


@pytest.mark.parametrize(("damage", "family", "command"), tuple(cases()))
def test_damage_is_refused_with_a_reason(
    damage: str, family: str, command: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole[family], folder)
    (OUTSIDE | INSIDE)[damage][0](folder, family)
    with pytest.raises(AutoRoundError) as caught:
        use(command, folder, family)
    assert NAMED.search(str(caught.value)), str(caught.value)
    assert not (tmp_path / "out").exists()
