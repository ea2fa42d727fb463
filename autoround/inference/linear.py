"""A linear layer that holds packed weights and unpacks them when it runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
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
        #: Group of each input where groups do not follow each other (GPTQ's desc_act).
        self._order: Tensor | None = None
        self.register_buffer(
            "bias", torch.empty(shape[0], dtype=torch.float16, device="meta") if bias else None
        )

    def quantized(self) -> QuantizedTensor:
        """Return the codes, scales and zero points, unpacked."""
        tensors = {name: self.get_buffer(name) for name in self._parts}
        return layouts.from_tensors(tensors, self.scheme, packing=self.packing, name="layer")

    def note_order(self, name: str) -> None:
        """Look at the filled ``g_idx`` once: which group does each input belong to?

        Raises:
            FormatError: it names a group that does not exist; ``name`` says where.
        """
        index = self._buffers.get("g_idx")
        if index is None or self.scheme.group_size <= 0:
            return
        groups = -(-self.in_features // self.scheme.group_size)
        if int(index.min()) < 0 or int(index.max()) >= groups:
            raise FormatError(f"layer {name}: g_idx names groups outside 0 … {groups - 1}")
        plain = torch.arange(len(index), dtype=index.dtype) // self.scheme.group_size
        self._order = None if torch.equal(index, plain) else index.long()

    def dense(self) -> Tensor:
        """Return the weight, float32 [out, in]."""
        layer = self.quantized()
        if self._order is None:
            return dense_weight(layer)
        order = self._order.to(layer.codes.device)
        return (layer.codes.float() - layer.zero.float()[:, order]) * layer.scale.float()[:, order]

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: x [..., in] to [..., out], in the dtype of x."""
        weight = self.dense().to(x.dtype)
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
