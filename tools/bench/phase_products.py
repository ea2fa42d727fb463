"""Products with packed weights: every kernel that fits beside torch's product in 16 bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from phase_cases import Block, Case

from autoround.core.rounding import dense_weight
from autoround.device.kernels import Demand, RegisteredKernel, kernels
from autoround.types import QuantizedTensor, Scheme

#: Rows of a product: decoding one text and eight, a short and a long prompt.
ROWS = (1, 8, 64, 2048)
#: Layers whose products are timed: square, and the widest.
LAYERS = ("q", "gate")
#: Largest relative error of a product; kernels that round their inputs to 8 bits have more.
CLOSE = 2e-2


def product_cases(block: Block) -> Iterator[Case]:
    """Yield a case for each kernel, number of bits, layer and number of rows."""
    for name in LAYERS:
        for rows in ROWS:
            yield f"product, 16 bit, {name}, {rows} rows", partial(_time_plain, block, name, rows)
        for bits in (4, 2, 3, 8):
            for entry in kernels():
                if _fits(block, entry, name, bits):
                    for rows in ROWS:
                        case = f"product, {entry.name}, {bits} bits, {name}, {rows} rows"
                        yield case, partial(_time_packed, block, entry, (name, bits), rows)


def _demand(block: Block, name: str, bits: int) -> Demand:
    scheme = Scheme(bits, block.shape.group, True)
    dtype = torch.float16 if block.runtime.own_memory else torch.float32
    return Demand(block.shape.matrices[name], scheme, block.device.type, dtype)


def _fits(block: Block, entry: RegisteredKernel, name: str, bits: int) -> bool:
    """Tell whether a kernel is here and takes the layer; a plain one would take minutes."""
    kernel = entry.kernel
    if kernel is None or not entry.availability.available:
        return False
    if kernel.devices and block.device.type not in kernel.devices:
        return False
    return not kernel.why_not(_demand(block, name, bits))


def _time_plain(block: Block, name: str, rows: int) -> dict[str, Any]:
    demand = _demand(block, name, 4)
    x = block.draw(rows, demand.shape[1], dtype=demand.dtype)
    weight = block.draw(*demand.shape, dtype=demand.dtype)
    size = {"gigabytes": weight.nbytes / 1e9}
    return block.time(lambda: torch.nn.functional.linear(x, weight), others=size)


def _time_packed(
    block: Block, entry: RegisteredKernel, layer: tuple[str, int], rows: int
) -> dict[str, Any]:
    """Time a kernel's product, and hold it against the product with the dequantized weight."""
    assert entry.kernel is not None
    name, bits = layer
    demand = _demand(block, name, bits)
    out, inner = demand.shape
    groups = inner // block.shape.group
    quantized = QuantizedTensor(
        torch.randint(0, 2**bits, (out, inner), dtype=torch.uint8, device=block.device),
        torch.full((out, groups), 2.0**-8, dtype=torch.float16, device=block.device),
        torch.full((out, groups), 2 ** (bits - 1), dtype=torch.uint8, device=block.device),
        demand.scheme,
    )
    state = entry.kernel.pack(quantized, None)
    multiply = entry.kernel.bind(state, demand, None)
    x = block.draw(rows, inner, dtype=demand.dtype)
    exact = x.float() @ dense_weight(quantized).t()
    error = float((multiply(x).float() - exact).norm() / exact.norm())
    size = sum(tensor.nbytes for tensor in state.values()) / 1e9
    others = {"gigabytes": size, "relative_error": error}
    figures = block.time(lambda: multiply(x), others=others)
    if not error <= CLOSE:
        raise ArithmeticError(f"its product is {error:.2e} of its size away from the exact one")
    return figures
