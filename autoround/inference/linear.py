"""A linear layer whose weight stays packed, multiplied by whichever kernel suits it.

Filled, it holds the tensors of its checkpoint. :meth:`QuantLinear.prepare` lays them out for a
kernel and lets go of them; its state is theirs all the same, made again when asked for.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autoround.core.rounding import dense_weight
from autoround.device.kernels import AUTO, Choice, Demand, Kernel, Multiply, choose
from autoround.errors import FormatError
from autoround.formats.registry import layout_named
from autoround.types import QuantizedTensor, Scheme

#: Prefix of the buffers that hold a kernel's layout; they are no part of a checkpoint.
LAID_OUT = "_laid_out_"
#: Layers by number: what a compiled graph holds in place of a layer.
_LAYERS: weakref.WeakValueDictionary[int, QuantLinear] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


class QuantLinear(nn.Module):
    """``y = x @ dequantize(W).T + b`` with W kept packed between calls."""

    bias: Tensor | None

    def __init__(self, shape: tuple[int, int], scheme: Scheme, *, packing: str, bias: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.scheme = scheme
        self.packing = packing
        #: What messages call it: its path, once that is known.
        self._name = "layer"
        #: Name of the kernel that was asked for.
        self.backend = AUTO
        #: One matrix of stacked experts: it is unpacked for the model's own code, never run.
        self.of_experts = False
        #: The model's own layer stores its weight as [in, out]: what is unpacked again does so.
        self.transposed = False
        #: Tensors of the checkpoint: those held now, and all.
        self._held: tuple[str, ...] = ()
        self._hold(layout_named(packing).to_tensors(_meta(shape, scheme)))
        self._parts: tuple[str, ...] = self._held
        #: Group of each input where groups do not follow each other (GPTQ's desc_act).
        self._order: Tensor | None = None
        self._kernel: Kernel | None = None
        self._demand: Demand | None = None
        self._multiply: Multiply | None = None
        self._number = _numbered(self)
        self.register_buffer(
            "bias", torch.empty(shape[0], dtype=torch.float16, device="meta") if bias else None
        )

    @property
    def kernel(self) -> str:
        """Name of the kernel the weight is laid out for, or an empty text."""
        return "" if self._kernel is None else self._kernel.name

    @property
    def demand(self) -> Demand | None:
        """What was asked of the kernel; None before there is one."""
        return self._demand if self._kernel is not None else None

    @property
    def device(self) -> torch.device:
        """Where the weight is."""
        name = self._held[0] if self._kernel is None else self._laid_out()[0]
        return self.get_buffer(name).device

    def quantized(self) -> QuantizedTensor:
        """Return the codes, scales and zero points, unpacked."""
        if self._kernel is not None and self._kernel.reversible and self._demand is not None:
            return self._kernel.unpack(self._state(), self._demand)
        tensors = {name: self.get_buffer(name) for name in self._parts}
        return layout_named(self.packing).from_tensors(tensors, self.scheme, name=self._name)

    def stored_parts(self) -> tuple[str, ...]:
        """Return the names of the checkpoint's tensors, as a state dict has them."""
        return self._parts if self.bias is None else (*self._parts, "bias")

    def note_order(self, name: str) -> None:
        """Look at the filled ``g_idx`` once: which group does each input belong to?

        Raises:
            FormatError: it names a group that does not exist; ``name`` says where.
        """
        self._name = name
        index = self._buffers.get("g_idx")
        if index is None or self.scheme.group_size <= 0:
            return
        groups = -(-self.in_features // self.scheme.group_size)
        if int(index.min()) < 0 or int(index.max()) >= groups:
            raise FormatError(f"layer {name}: g_idx names groups outside 0 … {groups - 1}")
        plain = torch.arange(len(index), dtype=index.dtype, device=index.device)
        plain = plain // self.scheme.group_size
        self._order = None if torch.equal(index, plain) else index.long()

    def check(self, name: str) -> None:
        """Look at the filled layer once: its order, and whether its scales are numbers.

        Raises:
            FormatError: it cannot be used; ``name`` says where.
        """
        self.note_order(name)
        for part in self._parts:
            tensor = self.get_buffer(part)
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise FormatError(f"layer {name}: tensor {part} holds infinity or NaN")

    def prepare(self, dtype: torch.dtype, *, backend: str = AUTO) -> Choice:
        """Choose a kernel and lay the weight out for it; the checkpoint's tensors are let go.

        dtype: of the activations to expect.

        Raises:
            UsageError, DeviceError: no kernel has that name, or can run the layer.
        """
        demand = Demand(
            (self.out_features, self.in_features),
            self.scheme,
            self.device.type,
            dtype,
            self._order is not None,
        )
        choice = choose(demand, backend)
        if self._kernel is not choice.kernel:
            self._restore()
            layer = self.quantized()
            kept = self._unwritable(layer) if choice.kernel.reversible else self._held
            state = choice.kernel.pack(layer, self._order)
            for name in self._held:
                if name not in kept:
                    del self._buffers[name]
            self._held = kept
            for name, tensor in state.items():
                self.register_buffer(LAID_OUT + name, tensor, persistent=False)
        self.backend, self._kernel, self._demand = backend, choice.kernel, demand
        self._multiply = None
        return choice

    def dense(self) -> Tensor:
        """Return the weight, float32 [out, in]."""
        layer = self.quantized()
        if self._order is None:
            return dense_weight(layer)
        order = self._order.to(layer.codes.device)
        return (layer.codes.float() - layer.zero.float()[:, order]) * layer.scale.float()[:, order]

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: x [..., in] to [..., out], in the dtype of x."""
        if self._kernel is None:
            weight = self.dense().to(x.dtype)
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return nn.functional.linear(x, weight, bias)
        if torch.compiler.is_compiling():
            out: Tensor = torch.ops.autoround.packed_linear(x, self._number, self.out_features)
            return out
        if torch.is_grad_enabled() and x.requires_grad:
            differentiable: Tensor = _Differentiable.apply(x, self)  # type: ignore[no-untyped-call]
            return differentiable
        return self.multiply(x)

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply by the kernel, without a gradient."""
        run = self._multiply
        if run is None:
            assert self._kernel is not None
            assert self._demand is not None
            run = self._multiply = self._kernel.bind(self._state(), self._demand, self.bias)
        if x.dim() == 2:
            return run(x)
        return run(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Describe the layer when the model is printed."""
        kernel = f", {self.kernel}" if self.kernel else ""
        return f"in={self.in_features}, out={self.out_features}, {self.scheme}{kernel}"

    def stand_in_weight(self) -> None:
        """Have a weight while transformers initializes what its files lack.

        Classes such as GPT-2's initialize a layer's weight by name: this one counts as filled, so
        that nothing is done to it.
        """
        if "weight" not in self._buffers:
            filled: Any = torch.empty(0)
            filled._is_hf_initialized = True
            self.__dict__["weight"] = filled

    def drop_stand_in(self) -> None:
        """Have no weight any more but the packed one."""
        self.__dict__.pop("weight", None)

    # How the state of a checkpoint and of a kernel are kept apart.

    def _hold(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self._held = tuple(tensors)

    def _laid_out(self) -> list[str]:
        return [name for name in self._buffers if name.startswith(LAID_OUT)]

    def _state(self) -> dict[str, Tensor]:
        return {name.removeprefix(LAID_OUT): self.get_buffer(name) for name in self._laid_out()}

    def _unwritable(self, layer: QuantizedTensor) -> tuple[str, ...]:
        """Return the tensors to keep because they could not be made again from integers."""
        kept = tuple(name for name in self._parts if name == "g_idx")
        lowest = layout_named(self.packing).lowest_zero
        # Such files exist (GPTQ version 1 with a zero point of 0); none is written.
        return ("qzeros", *kept) if lowest and int(layer.zero.min()) < lowest else kept

    def _written(self) -> dict[str, Tensor]:
        """Return the tensors of the checkpoint."""
        held = {name: self.get_buffer(name) for name in self._held}
        if len(held) == len(self._parts):
            return held
        layer = self.quantized()
        zero = layer.zero.clamp(min=1) if "qzeros" in held else layer.zero
        layer = QuantizedTensor(layer.codes, layer.scale, zero, layer.scheme)
        made = layout_named(self.packing).to_tensors(layer)
        return {name: held.get(name, made[name]) for name in self._parts}

    def _restore(self) -> None:
        """Hold the tensors of the checkpoint again, and no kernel's."""
        if self._kernel is None:
            return
        tensors = self._written()
        for name in self._laid_out():
            del self._buffers[name]
            self._non_persistent_buffers_set.discard(name)
        self._kernel = self._multiply = None
        self._hold(tensors)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        for name, tensor in self._written().items():
            destination[prefix + name] = tensor
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        prepared, demand = self._kernel is not None, self._demand
        self._restore()
        super()._load_from_state_dict(state_dict, prefix, *others)
        if prepared and demand is not None:
            self.note_order(prefix.rstrip("."))
            self.prepare(demand.dtype, backend=self.backend)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantLinear:
        """Move to another device, where another kernel may suit; scales keep their dtype."""
        target = fn(torch.empty(0, device=self.device)).device
        prepared, demand = self._kernel is not None and target != self.device, self._demand
        if prepared:
            self._restore()
        for name, buffer in self._buffers.items():
            if buffer is not None:
                moved = fn(buffer)
                keep = name != "bias" and moved.dtype != buffer.dtype
                self._buffers[name] = buffer.to(moved.device) if keep else moved
        if self._order is not None:
            self._order = self._order.to(target)
        self._multiply = None
        if prepared and demand is not None and target.type != "meta":
            self.prepare(demand.dtype, backend=self.backend)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy starts from: the checkpoint's tensors, on whatever machine that is."""
        state = self.__dict__.copy()
        state["_buffers"] = {**self._written(), "bias": self.bias}
        state["_non_persistent_buffers_set"] = set()
        state["_held"] = self._parts
        state["_kernel"] = state["_multiply"] = None
        state["_demand"] = self._demand if self._kernel is not None else None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a number of its own, and a kernel where the original had one."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._number = _numbered(self)
        if self._demand is not None and self.device.type != "meta":
            self.prepare(self._demand.dtype, backend=self.backend)


def _numbered(layer: QuantLinear) -> int:
    number = next(_NUMBERS)
    _LAYERS[number] = layer
    return number


class _Differentiable(torch.autograd.Function):
    """The product with a gradient for what comes in; the weight is not trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantLinear) -> Tensor:
        ctx.layer = layer
        return _as_no_view(layer.multiply(x.detach()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _input_gradient(grad, ctx.layer), None


def _as_no_view(out: Tensor) -> Tensor:
    """Return a product that may be changed in place: autograd forbids that for views it made.

    No copy is made: nobody else holds what the view looks at.
    """
    if not out._is_view():
        return out
    alone: Tensor = torch.ops.aten._unsafe_view.default(out, out.shape)
    return alone


def _input_gradient(grad: Tensor, layer: QuantLinear) -> Tensor:
    return grad @ layer.dense().to(grad.dtype)


@torch.library.custom_op("autoround::packed_linear", mutates_args=())
def _packed_linear(x: Tensor, number: int, outputs: int) -> Tensor:
    return _LAYERS[number].multiply(x)


@_packed_linear.register_fake
def _(x: Tensor, number: int, outputs: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


@torch.library.custom_op("autoround::packed_linear_backward", mutates_args=())
def _packed_linear_backward(grad: Tensor, number: int, inputs: int) -> Tensor:
    return _input_gradient(grad, _LAYERS[number])


@_packed_linear_backward.register_fake
def _(grad: Tensor, number: int, inputs: int) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], inputs))


def _note_layer(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
    x, ctx.number, _ = inputs
    ctx.inputs = x.shape[-1]


def _compiled_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.autoround.packed_linear_backward(grad, ctx.number, ctx.inputs), None, None


_packed_linear.register_autograd(_compiled_gradient, setup_context=_note_layer)


def _meta(shape: tuple[int, int], scheme: Scheme) -> QuantizedTensor:
    rows, columns = shape
    groups = 1 if scheme.group_size <= 0 else -(-columns // min(scheme.group_size, columns))
    return QuantizedTensor(
        torch.empty((rows, columns), dtype=torch.uint8, device="meta"),
        torch.empty((rows, groups), dtype=torch.float16, device="meta"),
        torch.empty((rows, groups), dtype=torch.uint8, device="meta"),
        scheme,
    )
