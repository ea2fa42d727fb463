"""Checkpoints that come in 8 or 4 bits of floating point, unpacked to 16 as they are read.

FP8 with a scale for each block of 128 x 128 (DeepSeek's), for each row or for the whole
matrix, and MXFP4 (gpt-oss): 4-bit floats in groups of 32 with a power of two each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from autoround.errors import ModelError
from autoround.model.files.source import Headers, WeightSource

#: Endings of the scale that belongs to an FP8 weight; both are multiplied with it.
SCALES = ("_scale_inv", "_scale")
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
#: Weights of a block's side, where the config does not say.
BLOCK = 128
#: The values of 4-bit floats: a sign, two bits of exponent, one of mantissa.
FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class UnpackedSource:
    """A checkpoint whose packed weights read as bfloat16; their scales do not show."""

    def __init__(self, source: WeightSource, quantization: Mapping[str, Any]) -> None:
        self._source = source
        blocks = quantization.get("weight_block_size") or (BLOCK, BLOCK)
        self._block = (int(blocks[0]), int(blocks[1]))
        headers = source.headers()
        self._scale: dict[str, str] = {}
        self._four: set[str] = set()
        hidden: set[str] = set()
        for name, (_, dtype) in headers.items():
            if dtype in FLOAT8:
                scale = next((name + end for end in SCALES if name + end in headers), None)
                if scale is None:
                    raise ModelError(f"tensor {name} is {dtype} and has no scale beside it")
                self._scale[name] = scale
                hidden.add(scale)
            elif name.endswith("_blocks") and name.removesuffix("_blocks") + "_scales" in headers:
                own = name.removesuffix("_blocks")
                self._four.add(own)
                hidden |= {name, own + "_scales"}
        # Scales of activations have no use for 16-bit weights.
        hidden |= {n for n in headers if n.endswith(("activation_scale", ".input_scale"))}
        self._headers = {
            name: (shape, torch.bfloat16 if name in self._scale else dtype)
            for name, (shape, dtype) in headers.items()
            if name not in hidden
        }
        for name in self._four:
            count, rows, groups, width = headers[name + "_blocks"][0]
            # The model class stores these experts turned.
            self._headers[name] = ((count, groups * width * 2, rows), torch.bfloat16)

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor as it reads."""
        return self._headers

    def stored_names(self, names: Iterable[str]) -> list[str]:
        """Return the names of the files' tensors that some tensors are unpacked from."""
        stored: list[str] = []
        for name in names:
            if name in self._four:
                stored += [name + "_blocks", name + "_scales"]
            else:
                stored += [name, self._scale[name]] if name in self._scale else [name]
        return stored

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors onto the CPU, packed ones as bfloat16."""
        wanted = list(names)
        held = self._source.read(dict.fromkeys(self.stored_names(wanted)))
        found = {}
        for name in wanted:
            if name in self._four:
                found[name] = float4(held[name + "_blocks"], held[name + "_scales"])
            elif name in self._scale:
                found[name] = float8(held[name], held[self._scale[name]], self._block, name=name)
            else:
                found[name] = held[name]
        return found


def float8(weight: Tensor, scale: Tensor, block: tuple[int, int], *, name: str) -> Tensor:
    """Multiply an FP8 weight with its scales.

    weight: float8 [..., rows, columns]. scale: one number, one a row, or one a block of
    ``block``. Returns bfloat16 of the weight's shape.

    Raises:
        ModelError: the scales do not fit the weight.
    """
    spread = scale.float()
    if spread.numel() > 1:
        for axis, side in ((-2, block[0]), (-1, block[1])):
            size = weight.shape[axis]
            if spread.shape[axis] not in (1, size):
                if spread.shape[axis] != -(-size // side):
                    raise ModelError(
                        f"tensor {name}: scales {tuple(scale.shape)} do not fit a weight "
                        f"{tuple(weight.shape)} in blocks of {block[0]} x {block[1]}"
                    )
                spread = spread.repeat_interleave(side, dim=axis).narrow(axis, 0, size)
    return (weight.float() * spread).bfloat16()


def float4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Unpack 4-bit floats, low half of a byte first.

    blocks: uint8 [experts, rows, groups, 16]; scales: uint8 [experts, rows, groups], exponents
    of two, 127 more than they are. Returns bfloat16 [experts, columns, rows].
    """
    values = torch.tensor([*FLOAT4, *(-value for value in FLOAT4)])
    pairs = torch.stack((values[(blocks & 15).long()], values[(blocks >> 4).long()]), dim=-1)
    whole = torch.ldexp(pairs.flatten(-2), scales.int().unsqueeze(-1) - 127)
    return whole.flatten(-2).bfloat16().transpose(1, 2).contiguous()
