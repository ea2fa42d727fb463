"""One decoder block in memory: its tensors on the device, and how it is run with other weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from torch import Tensor

from autoround.core.dtypes import DTYPES
from autoround.core.reconstruction import BlockKind
from autoround.model.importance import Importance, accumulate_importance
from autoround.model.runner import BlockRunner
from autoround.model.stacked_experts import as_stored
from autoround.session.session import Session
from autoround.types import BlockPlan, Plan


@dataclass(frozen=True, slots=True)
class LoadedBlock:
    """A block whose tensors are in memory.

    plan: what is planned for it. tensors: by param, on the device in the compute dtype; weights
    that are replaced in every call need not be among them.
    """

    plan: BlockPlan
    runner: BlockRunner
    tensors: Mapping[str, Tensor]

    def forward(
        self,
        hidden: Tensor,
        rows: Tensor | None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        compiled: bool = False,
    ) -> Tensor:
        """Run the block.

        Args:
            hidden: block inputs [batch, seq, hidden] on the device.
            rows: int64 [batch], which calibration samples these are; None where all are alike.
            weights: weights [out, in] by layer, in place of the block's own.
            compiled: whether this is one of many runs that are alike.

        Returns:
            The block outputs, of the inputs' shape.
        """
        tensors = {**self.tensors, **as_stored(self.plan, weights or {})}
        return self.runner.run(
            self.plan.index, tensors, hidden=hidden, rows=rows, compiled=compiled
        )

    def without_quantized(self) -> LoadedBlock:
        """Drop the weights that get a scheme: quantized ones take their place in every call."""
        replaced = {layer.param for layer in self.plan.quantized}
        kept = {name: tensor for name, tensor in self.tensors.items() if name not in replaced}
        return replace(self, tensors=kept)

    def with_weights(self, weights: Mapping[str, Tensor]) -> LoadedBlock:
        """Put weights [out, in] by layer into the block for good."""
        return replace(self, tensors={**self.tensors, **as_stored(self.plan, weights)})

    def of_a_kind(self, batch: int) -> tuple[LoadedBlock, BlockKind]:
        """Return the block with tensors of its own, and what tells blocks of its kind.

        A recording of its step may serve later blocks, whose numbers are then written to them.

        Args:
            batch: samples of a step.
        """
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        code, shared = self.runner.code(self.plan.index, batch)
        layers = tuple((layer.path, layer.param, layer.shape) for layer in self.plan.quantized)
        return replace(self, tensors=tensors), BlockKind((code, layers), tensors, shared)


def load_block(
    session: Session, runner: BlockRunner, block: BlockPlan, stored: Mapping[str, Tensor]
) -> LoadedBlock:
    """Bring a block's tensors to the device.

    Args:
        session: the pass.
        runner: what runs its blocks.
        block: which one.
        stored: its tensors by param, on any device, in any dtype.
    """
    placed = runner.place(stored, under=block.name)
    return LoadedBlock(block, runner, placed | runner.buffers(block.index))


def read_block(session: Session, block: BlockPlan) -> dict[str, Tensor]:
    """Read the tensors of a block from the model.

    Returns:
        Tensors on the CPU by the model's own names, in their stored dtype.

    Raises:
        ModelError: they cannot be read, or hold NaN.
    """
    return session.skeleton.read(session.skeleton.names_under(block.name))


def in_kept_dtype(plan: Plan, block: BlockPlan, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give unquantized tensors the dtype they are written in, so that tuning sees what is served.

    Tensors that stay in float32 are left as they are.

    Args:
        plan: says the dtype.
        block: says which tensors get a scheme, and keep the dtype they have.
        stored: tensors by the model's own names.
    """
    left, kept = block.quantized_tensors | plan.float32, DTYPES[plan.dtype]
    return {
        name: t.to(kept) if name not in left and t.is_floating_point() else t
        for name, t in stored.items()
    }


def observe_inputs(
    session: Session, block: BlockPlan, *, into: Importance, linear: bool = True
) -> AbstractContextManager[None]:
    """Collect second moments of the inputs of a block's quantized layers while a context lasts.

    Args:
        session: the pass.
        block: whose layers.
        into: what they are added to, by the layers' paths inside the block.
        linear: whether those of linear layers are wanted; tokens of experts are always counted.
    """
    layers = {layer.path: layer for layer in block.quantized}
    names = [path for path, layer in layers.items() if not layer.experts]
    stacked = {path: layer.experts for path, layer in layers.items() if layer.experts}
    module = session.skeleton.model.get_submodule(block.name)
    return accumulate_importance(module, names if linear else (), into=into, stacked=stacked)
