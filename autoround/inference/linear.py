"""A linear layer that holds packed weights and unpacks them when it runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoround.core.rounding import dense_weight
from autoround.formats import layouts
from autoround.types import QuantizedTensor, Scheme


class QuantLinear(nn.Module):
    """``y = x @ dequantize(W).T + b`` with W kept packed between calls.

    Buffers are the format's own tensors, so the state of the module is the checkpoint's.
    """

    bias: Tensor | None

    def __init__(self, shape: tuple[int, int], scheme: Scheme, *, packing: str, bias: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.scheme = scheme
        self.packing = packing
        empty = layouts.to_tensors(_meta(shape, scheme), packing)
        self._parts = tuple(empty)
        for name, tensor in empty.items():
            self.register_buffer(name, tensor)
        self.register_buffer(
            "bias", torch.empty(shape[0], dtype=torch.float16, device="meta") if bias else None
        )

    def quantized(self) -> QuantizedTensor:
        """Return the codes, scales and zero points, unpacked."""
        tensors = {name: self.get_buffer(name) for name in self._parts}
        return layouts.from_tensors(tensors, self.scheme, packing=self.packing, name="layer")

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: x [..., in] to [..., out], in the dtype of x."""
        weight = dense_weight(self.quantized()).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return nn.functional.linear(x, weight, bias)

    def extra_repr(self) -> str:
        """Describe the layer when the model is printed."""
        return f"in={self.in_features}, out={self.out_features}, {self.scheme}"


def _meta(shape: tuple[int, int], scheme: Scheme) -> QuantizedTensor:
    rows, columns = shape
    groups = 1 if scheme.group_size <= 0 else -(-columns // min(scheme.group_size, columns))
    return QuantizedTensor(
        torch.empty((rows, columns), dtype=torch.uint8, device="meta"),
        torch.empty((rows, groups), dtype=torch.float16, device="meta"),
        torch.empty((rows, groups), dtype=torch.uint8, device="meta"),
        scheme,
    )
