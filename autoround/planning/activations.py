"""Activations of a decoder block by its shapes: what a step keeps for its backward, and beside it.

Estimates: of a block's code no more is known than the shapes of its layers and norms. In a module
the last layer reads what the others have made (down of gate and up, o of q, k and v), and norms
compute in float32, as transformers' own do. Attention is one kernel, which keeps no scores.
Linear attention and state-space layers in plain torch take more than is said here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from autoround.types import BlockPlan, LayerPlan

#: Names in configs for the experts that a token goes to, and how many where none is there.
TOP_K_KEYS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
TOP_K = 8
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
#: An expert that is a module by itself.
_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")
FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class ModuleShape:
    """Some layers of a block that belong together, and what a token is in them.

    layers: in module order. rows: how often a token goes through them: of experts, as many as it
    is routed to, or the share of one by itself. weights: of the layers. attention: whether they
    are attention's. normed: width of norms inside the module, in float32 numbers a token.
    """

    layers: tuple[LayerPlan, ...]
    rows: float
    attention: bool
    normed: int

    @property
    def weights(self) -> int:
        """Weights of all layers."""
        return sum(weights_of(layer) for layer in self.layers)

    @property
    def inner(self) -> int:
        """Width of what the last layer reads."""
        return self.layers[-1].shape[1]

    def kept(self, item: int) -> float:
        """Return the bytes a token that a step keeps for the backward.

        Args:
            item: bytes of an activation.
        """
        first = self.layers[0].shape[1]
        if len(self.layers) == 1:
            return item * self.rows * (first + _out(self.layers[0]))
        made = sum(_out(layer) for layer in self.layers[:-1])
        # Feed-forward parts keep the activation function's result beside the product of both, and
        # experts their outputs, which routing weights multiply.
        activation = 0 if self.attention else self.inner
        routed = _out(self.layers[-1]) if self.layers[-1].experts else 0
        numbers = first + made + self.inner + activation + routed
        return item * self.rows * numbers + FLOAT32 * self.normed

    def backward(self, item: int) -> float:
        """Return the bytes a token that the module's backward needs beside what is kept.

        Args:
            item: bytes of an activation.
        """
        if self.attention:
            # Of kernels: gradients of queries in float32, those of keys and values for every head.
            return (FLOAT32 + 4 * item) * self.inner + 2 * item * _out(self.layers[-1])
        out = _out(self.layers[-1])
        routed = 2 if self.layers[-1].experts else 0
        return item * self.rows * (2 * self.inner + (1 + routed) * out)

    def forward(self, item: int) -> float:
        """Return the bytes a token that the module needs without gradients.

        Args:
            item: bytes of an activation.
        """
        out, first = _out(self.layers[-1]), self.layers[0].shape[1]
        made = sum(_out(layer) for layer in self.layers[:-1])
        if self.layers[-1].experts:
            return item * self.rows * max(first + made + 2 * self.inner, first + 3 * out)
        if self.attention:
            return item * (2 * made + self.inner) + FLOAT32 * self.normed
        return item * self.rows * (3 * self.inner + out)


@dataclass(frozen=True, slots=True)
class BlockShape:
    """A block as its memory goes by.

    plan: of the block. modules: in the order they run. hidden: width of a token between blocks.
    norms: how many norms of that width the block has.
    """

    plan: BlockPlan
    modules: tuple[ModuleShape, ...]
    hidden: int
    norms: int

    @property
    def weights(self) -> int:
        """Weights that get a scheme."""
        return sum(weights_of(layer) for layer in self.plan.quantized)

    @property
    def groups(self) -> int:
        """Groups of these."""
        return sum(groups_of(layer) for layer in self.plan.quantized)

    @property
    def kept_weights(self) -> int:
        """Weights of layers that stay in 16 bit."""
        return sum(weights_of(x) for x in self.plan.layers if x.scheme is None)

    @property
    def largest(self) -> int:
        """Weights of the largest layer that gets a scheme, all of its experts."""
        return max((weights_of(layer) for layer in self.plan.quantized), default=0)

    def kept(self, item: int) -> float:
        """Return the bytes a token that a step keeps at its loss.

        Args:
            item: bytes of an activation.
        """
        # No gradient is wanted of the block's input, so its first norm keeps nothing; the loss
        # keeps a difference in float32.
        normed = FLOAT32 * self.hidden * max(0, self.norms - 1)
        return sum(module.kept(item) for module in self.modules) + normed

    def forward(self, item: int) -> float:
        """Return the bytes a token that a block takes without gradients, inputs not counted.

        Args:
            item: bytes of an activation.
        """
        norm = 3 * FLOAT32 * self.hidden
        return 2 * item * self.hidden + max(norm, *(m.forward(item) for m in self.modules))

    def step(self, item: int, tokens: int) -> int:
        """Return the bytes of a step at their peak: rounded weights, activations, gradients.

        Args:
            item: bytes of an activation, and of a rounded weight.
            tokens: that go through the block at a time.
        """
        rounded, kept = item * self.weights, self.kept(item)
        # A difference in float32, and four more of its size on the way of its square's gradient.
        loss = 5 * FLOAT32 * self.hidden
        peak, gradients = rounded + tokens * (kept + loss), 0.0
        for module in reversed(self.modules):
            last = item * weights_of(module.layers[-1])
            moment = tokens * (kept + module.backward(item)) + gradients + last
            peak = max(peak, rounded + moment)
            kept -= module.kept(item)
            gradients += item * sum(weights_of(x) for x in module.layers if x.scheme is not None)
        return int(peak)


def block_shape(
    block: BlockPlan, *, hidden: int, top_k: int, vectors: Mapping[str, int]
) -> BlockShape:
    """Read off a block's plan what its memory goes by.

    Args:
        block: the plan.
        hidden: width of a token between blocks, all streams of it.
        top_k: experts that a token is routed to.
        vectors: sizes of the block's tensors of one axis, by the model's own names.
    """
    modules = []
    stacks = {x.path.rpartition(".")[0]: x.experts for x in block.layers if x.experts}
    alone: dict[str, int] = {}
    for layer in block.layers:
        if _EXPERT.search(layer.path):
            owner = _EXPERT.split(layer.path)[0]
            alone[owner] = alone.get(owner, 0) + 1
    for path, layers in groupby(block.layers, key=lambda layer: layer.path.rpartition(".")[0]):
        some = tuple(layers)
        rows = float(min(top_k, stacks[path])) if path in stacks else 1.0
        if _EXPERT.search(f"{path}."):
            siblings = alone[_EXPERT.split(f"{path}.")[0]] / len(some)
            rows = min(1.0, top_k / siblings)
        modules.append(
            ModuleShape(
                some, rows, bool(_ATTENTION.search(path)), _norm_widths(block, path, some, vectors)
            )
        )
    norms = sum("norm" in name and size == hidden for name, size in vectors.items())
    return BlockShape(block, tuple(modules), hidden, norms)


def _norm_widths(
    block: BlockPlan, path: str, layers: Sequence[LayerPlan], vectors: Mapping[str, int]
) -> int:
    """Return the numbers a token that norms between the layers of a module keep."""
    start = f"{block.name}.{path}."
    widths = 0
    for name, size in vectors.items():
        if name.startswith(start) and "norm" in name:
            # q_norm is of one head, and done for all that q_proj makes.
            word = name[len(start) :].partition("_")[0]
            of = (x for x in layers if x.path.rpartition(".")[2].startswith(f"{word}_"))
            widths += max((_out(x) for x in of), default=size)
    return widths


def weights_of(layer: LayerPlan) -> int:
    """Return the weights of a layer, all of its experts."""
    return layer.shape[0] * layer.shape[1]


def groups_of(layer: LayerPlan) -> int:
    """Return the groups of a layer that have a scale each."""
    size = layer.scheme.group_size if layer.scheme is not None else 0
    if size == 0:
        return 1
    columns = layer.shape[1]
    return layer.shape[0] * (1 if size < 0 else -(-columns // min(size, columns)))


def _out(layer: LayerPlan) -> int:
    """Return the width of what a layer, or one of its experts, makes of a token."""
    return layer.shape[0] // max(1, layer.experts)
