"""Pack small layers of known integers with a client's own code; runs in its environment.

    python tools/clients/golden.py --client gptqmodel --out tests/golden/gptqmodel.safetensors

Needs nothing of this project, so that the files it writes are a word from outside. They hold
``LAYER/codes``, ``LAYER/scale`` and ``LAYER/zero``, which went in, and ``LAYER/PACKING/PART``,
which came out; the metadata says what each layer is. Packers that want a float weight get
``scale * (code - zero)``, which float32 holds exactly, so that they find the same integers.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

#: Edges of float16 that every layer's scales have: largest, smallest normal, smallest.
EDGES = (65504.0, 6.104e-05, 5.96e-08)


@dataclass(frozen=True)
class Layer:
    """What is packed: lowest is the least zero point an asymmetric one has."""

    bits: int
    group_size: int
    sym: bool
    rows: int
    columns: int
    lowest: int = 0

    @property
    def name(self) -> str:
        kind = "sym" if self.sym else f"from{self.lowest}"
        return f"w{self.bits}g{self.group_size}-{kind}-{self.rows}x{self.columns}"

    @property
    def width(self) -> int:
        return self.group_size if self.group_size > 0 else self.columns


@dataclass(frozen=True)
class Inputs:
    """codes uint8 [out, in], scale float16 and zero uint8 [out, groups], weight float32."""

    codes: Tensor
    scale: Tensor
    zero: Tensor
    weight: Tensor


def inputs(layer: Layer) -> Inputs:
    """Draw integers from a seed that the layer's name gives; both ends occur everywhere."""
    draw = np.random.default_rng(zlib.crc32(layer.name.encode()))
    top, groups = 2**layer.bits - 1, -(-layer.columns // layer.width)
    codes = draw.integers(0, top + 1, (layer.rows, layer.columns), dtype=np.uint8)
    codes[0], codes[1] = top, 0
    scale = 10 ** draw.uniform(-4, -1, (layer.rows, groups)) * draw.choice((-1, 1), (1, groups))
    scale[2:5, 0] = EDGES
    scale[5:8, -1] = np.negative(EDGES)
    zero = np.full((layer.rows, groups), 2 ** (layer.bits - 1), dtype=np.uint8)
    if not layer.sym:
        zero = draw.integers(layer.lowest, top + 1, (layer.rows, groups), dtype=np.uint8)
        zero[0], zero[1], zero[-1] = layer.lowest, top, top
    held = scale.astype(np.float16)
    of = np.arange(layer.columns) // layer.width
    weight = held.astype(np.float32)[:, of] * (codes.astype(np.float32) - zero[:, of])
    return Inputs(*map(torch.from_numpy, (codes, held, zero, weight)))


def linear(weight: Tensor) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return module


def auto_round_gptq(layer: Layer, given: Inputs, packing: str) -> dict[str, Tensor]:
    """Pack as auto-round's exporters do: its choice of class, and one zero where symmetric."""
    if packing == "gptq":
        chosen = import_module("auto_round.export.utils").get_autogptq_packing_qlinear("auto_gptq")
        zero: Any = int(given.zero[0, 0]) if layer.sym else given.zero.float()
        options = {"g_idx": True}
    else:
        exporter = import_module("auto_round.export.export_to_autoround.export")
        chosen = exporter.dynamic_import_quant_linear_for_packing(
            packing, layer.bits, layer.group_size, layer.sym
        )
        zero, options = given.zero.float(), {}
    module = chosen(layer.bits, layer.group_size, layer.columns, layer.rows, bias=False, **options)
    module.device = torch.device("cpu")
    module.pack(linear(given.weight), given.scale, zero, None, device="cpu")
    return dict(module.state_dict())


def auto_round_awq(layer: Layer, given: Inputs, packing: str) -> dict[str, Tensor]:
    """Pack as auto-round's AWQ exporter does."""
    packer = import_module("auto_round.export.export_to_awq.utils").WQLinear_GEMM
    one = int(given.zero[0, 0])
    module = packer.from_linear(
        linear(given.weight),
        layer.bits,
        layer.group_size,
        scales=given.scale.t().contiguous(),
        zeros=one if layer.sym else given.zero.t().contiguous().float(),
        device="cpu",
    )
    return dict(module.state_dict())


def gptqmodel_gptq(layer: Layer, given: Inputs, packing: str) -> dict[str, Tensor]:
    """Pack with GPTQModel's kernel class, which holds version 2, and its step to version 1."""
    kernel = import_module("gptqmodel.nn_modules.qlinear.torch").TorchLinear
    config = import_module("gptqmodel").QuantizeConfig(bits=layer.bits)
    module = kernel(
        bits=layer.bits,
        group_size=layer.group_size,
        sym=layer.sym,
        desc_act=False,
        in_features=layer.columns,
        out_features=layer.rows,
    )
    index = (torch.arange(layer.columns) // layer.width).to(torch.int32)
    module.pack_original(linear(given.weight), given.scale.float(), given.zero.float(), index)
    if packing == "gptq":
        to_v1 = import_module("gptqmodel.utils.model").convert_gptq_v2_to_v1_format_module
        to_v1(module, config)
    parts = ("qweight", "qzeros", "scales", "g_idx")
    return {part: module.get_buffer(part) for part in parts}


def gptqmodel_awq(layer: Layer, given: Inputs, packing: str) -> dict[str, Tensor]:
    """Pack with GPTQModel's AWQ class."""
    kernel = import_module("gptqmodel.nn_modules.qlinear.torch_awq").AwqTorchLinear
    module = kernel(
        bits=layer.bits,
        group_size=layer.group_size,
        sym=layer.sym,
        desc_act=False,
        in_features=layer.columns,
        out_features=layer.rows,
    )
    module.pack(linear(given.weight), given.scale.float(), given.zero.float())
    return {part: module.get_buffer(part) for part in ("qweight", "qzeros", "scales")}


def compressed(layer: Layer, given: Inputs, packing: str) -> dict[str, Tensor]:
    """Compress with the library's own compressor; it counts from the middle level."""
    settings = import_module("compressed_tensors.quantization")
    found = import_module("compressed_tensors.compressors.pack_quantized.base")
    weights = settings.QuantizationArgs(
        num_bits=layer.bits,
        type="int",
        symmetric=layer.sym,
        strategy="group" if layer.group_size > 0 else "channel",
        group_size=layer.group_size if layer.group_size > 0 else None,
    )
    scheme = settings.QuantizationScheme(targets=["Linear"], weights=weights)
    zero = (given.zero.to(torch.int16) - 2 ** (layer.bits - 1)).to(torch.int8)
    state = {"weight": given.weight, "weight_scale": given.scale, "weight_zero_point": zero}
    packed: dict[str, Tensor] = found.PackedQuantizationCompressor.compress(state, scheme)
    return packed


Pack = Callable[[Layer, Inputs, str], dict[str, Tensor]]
V1, PLAIN, AWQ = "auto_round:auto_gptq", "auto_round", "auto_round:auto_awq"


def auto_round() -> Iterator[tuple[Layer, str, Pack]]:
    """Every width; groups that do not divide the inputs; zero points at both ends."""
    for bits in range(2, 9):
        columns = 64 if bits in (3, 4) else 32
        layers = [Layer(bits, 32, sym, 32, columns, 0 if sym else 1) for sym in (True, False)]
        for layer in layers:
            yield layer, V1, auto_round_gptq
            if bits in (3, 4):
                yield layer, "gptq", auto_round_gptq
        yield layers[bits != 4], PLAIN, auto_round_gptq
    for bits in (2, 3, 4, 8):
        yield Layer(bits, 32, False, 32, 64), PLAIN, auto_round_gptq
    for bits in (3, 4):
        for layer in (Layer(bits, 64, False, 64, 96, 1), Layer(bits, -1, False, 32, 64, 1)):
            yield layer, V1, auto_round_gptq
            yield layer, PLAIN, auto_round_gptq
    for bits in range(2, 9):
        yield Layer(bits, 64, True, 32, 96), V1, auto_round_gptq
        if bits not in (3, 4):
            yield Layer(bits, 64, False, 32, 96, 1), PLAIN, auto_round_gptq
    # Version 1 has no way to say 0; what becomes of it?
    for bits in (3, 4, 6):
        yield Layer(bits, 32, False, 32, 64), V1, auto_round_gptq
    for layer in (Layer(4, 32, True, 40, 64), Layer(4, 32, False, 40, 64)):
        yield layer, AWQ, auto_round_awq
    yield Layer(4, -1, False, 32, 32), AWQ, auto_round_awq


def gptqmodel() -> Iterator[tuple[Layer, str, Pack]]:
    """Both versions and AWQ; other widths are in planes of bits, a format of its own."""
    for bits in (2, 3, 4, 8):
        for packing in ("gptq", "gptq_v2"):
            yield Layer(bits, 32, True, 32, 64), packing, gptqmodel_gptq
        yield Layer(bits, 32, False, 32, 64, 1), "gptq", gptqmodel_gptq
        yield Layer(bits, 32, False, 32, 64), "gptq_v2", gptqmodel_gptq
    for bits in (2, 3, 4, 8):
        yield Layer(bits, 64, True, 32, 96), "gptq", gptqmodel_gptq
        yield Layer(bits, 64, False, 32, 96), "gptq_v2", gptqmodel_gptq
    for bits in (3, 4):
        yield Layer(bits, 64, False, 64, 96, 1), "gptq", gptqmodel_gptq
        yield Layer(bits, -1, False, 32, 64, 1), "gptq", gptqmodel_gptq
    # Version 1 has no way to say 0; what becomes of it?
    for bits in (3, 4):
        yield Layer(bits, 32, False, 32, 64), "gptq", gptqmodel_gptq
    for layer in (Layer(4, 32, True, 32, 64), Layer(4, 32, False, 32, 64)):
        yield layer, "awq", gptqmodel_awq
    yield Layer(4, -1, False, 32, 64), "awq", gptqmodel_awq


def compressed_tensors() -> Iterator[tuple[Layer, str, Pack]]:
    """Every width, by group and by channel; then rows and columns that end inside a word."""
    for bits in range(2, 9):
        yield Layer(bits, 32, True, 40, 64), "pack-quantized", compressed
        yield Layer(bits, 32, False, 32, 96), "pack-quantized", compressed
        yield Layer(bits, -1, True, 32, 64), "pack-quantized", compressed
        yield Layer(bits, -1, False, 64, 32), "pack-quantized", compressed
        yield Layer(bits, 11, True, 9, 33), "pack-quantized", compressed
        yield Layer(bits, 10, False, 37, 50), "pack-quantized", compressed
        yield Layer(bits, -1, False, 35, 37), "pack-quantized", compressed


CLIENTS = {
    "auto-round": auto_round,
    "gptqmodel": gptqmodel,
    "compressed-tensors": compressed_tensors,
}


def main() -> None:
    """Write one client's file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=CLIENTS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tensors: dict[str, Tensor] = {}
    layers: dict[str, Layer] = {}
    for layer, packing, pack in CLIENTS[args.client]():
        given = inputs(layer)
        layers[layer.name] = layer
        for part in ("codes", "scale", "zero"):
            tensors[f"{layer.name}/{part}"] = getattr(given, part)
        for part, tensor in pack(layer, given, packing).items():
            tensors[f"{layer.name}/{packing}/{part}"] = tensor.detach().clone().contiguous()
    described = json.dumps({name: asdict(layer) for name, layer in layers.items()})
    metadata = {"client": f"{args.client} {version(args.client)}", "layers": described}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out, metadata=metadata)
    print(f"{args.out}: {len(tensors)} tensors, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
