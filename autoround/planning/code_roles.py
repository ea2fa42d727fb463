"""Layers by what the model's code does with them: routers, layers that cannot be packed, the rest.

What a small copy of the class showed is put into the matrices that a plan decides about, and every
large weight of the blocks that is no linear layer is named, so that none stays in 16 bit unseen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from autoround.errors import ModelError
from autoround.model.blocks import ROUTER, Matrix, is_matrix
from autoround.model.probe.traits import CodeTraits
from autoround.model.skeleton import Skeleton
from autoround.planning.gguf_tensors import IGNORED
from autoround.planning.layer_rules import BY_RULE
from autoround.types import BlockPlan, KeptTensor, LayerPlan, Plan

#: Why layers are kept, beside routers.
READ = "the model's own code reads its weight, which packed layers do not have"
GATE = "a gate with one output"
OTHER_LIST = "in another list of blocks that text runs through, of which none is quantized"
SHARED = "shares its weight with another block"
NO_LINEAR = "no linear layer: the model's own code computes with it"
#: Weights of a tensor that is named, at least.
LARGE = 1024
#: Share of the blocks' weights that may stay in 16 bit for reasons that are not the recipe's.
PARTIAL = 1 / 3


def without_shared(matrices: Iterable[Matrix], skeleton: Skeleton) -> list[Matrix]:
    """Keep the weights that blocks share: tuned in one of them, they would be wrong in the other.

    Args:
        matrices: of a block.
        skeleton: the model.
    """
    shared = {*skeleton.tied, *skeleton.tied.values()}
    return [
        replace(m, why_kept=SHARED) if f"{m.name}.weight" in shared and not m.why_kept else m
        for m in matrices
    ]


def with_code_traits(matrices: Iterable[Matrix], traits: CodeTraits, model: object) -> list[Matrix]:
    """Say of each matrix why it is kept, by what the model's code does with it.

    Args:
        matrices: of the model, with the reasons that their neighbourhood gives.
        traits: of the model's code; where nothing is known, the neighbourhood decides.
        model: the modules.
    """
    if not traits.known:
        return list(matrices)
    return [replace(m, why_kept=_why_kept(m, traits, model)) for m in matrices]


def _why_kept(m: Matrix, traits: CodeTraits, model: object) -> str:
    if m.name.startswith(tuple(f"{path}." for path in traits.lists)):
        return OTHER_LIST
    if m.name in traits.choosing:
        return ROUTER
    if m.name in traits.read:
        return READ
    if m.why_kept != ROUTER:
        return m.why_kept
    if m.shape[0] == 1:
        return GATE
    module = model.get_submodule(m.name)  # type: ignore[attr-defined]
    return "" if is_matrix(module) else NO_LINEAR


def kept_tensors(
    skeleton: Skeleton, blocks: Sequence[BlockPlan], traits: CodeTraits
) -> tuple[KeptTensor, ...]:
    """List the large weights of the blocks that are no layer of the plan, each with its reason.

    Args:
        skeleton: the model.
        blocks: the plan's, with their layers.
        traits: of the model's code.
    """
    planned = {layer.tensor for block in blocks for layer in block.layers}
    kept = []
    for block in blocks:
        for name, parameter in skeleton.model.get_submodule(block.name).named_parameters():
            whole = f"{block.name}.{name}"
            if whole in planned or parameter.dim() < 2 or parameter.numel() < LARGE:
                continue
            module = whole.rpartition(".")[0]
            reason = ROUTER if module in traits.choosing else NO_LINEAR
            kept.append(KeptTensor(whole, tuple(parameter.shape), reason))
    return tuple(kept)


def unasked_share(plan: Plan) -> float:
    """Return the share of the blocks' weights that stays in 16 bit though the recipe asks for less.

    Args:
        plan: of one pass over the blocks.
    """
    layers = _block_layers(plan)
    others = sum(math.prod(tensor.shape) for tensor in plan.kept_tensors)
    total = sum(math.prod(layer.shape) for layer in layers) + others
    of_recipe = (IGNORED, BY_RULE)
    unasked = sum(
        math.prod(layer.shape)
        for layer in layers
        if layer.scheme is None and not layer.reason.startswith(of_recipe)
    )
    return (unasked + others) / max(total, 1)


def _block_layers(plan: Plan) -> list[LayerPlan]:
    """Return the layers of all blocks, those of lists that are not quantized as well."""
    inside = [layer for block in plan.blocks for layer in block.layers]
    return [*inside, *(layer for layer in plan.kept if layer.reason == OTHER_LIST)]


def why_partial(plan: Plan) -> str:
    """Return that too much of a model would stay in 16 bit and why, or an empty text.

    Args:
        plan: of one pass over the blocks.
    """
    share = unasked_share(plan)
    if share <= PARTIAL:
        return ""
    sizes: dict[str, int] = {}
    for layer in _block_layers(plan):
        if layer.scheme is None:
            sizes[layer.reason] = sizes.get(layer.reason, 0) + math.prod(layer.shape)
    for tensor in plan.kept_tensors:
        sizes[tensor.reason] = sizes.get(tensor.reason, 0) + math.prod(tensor.shape)
    largest = max(sizes, key=lambda reason: sizes[reason])
    return (
        f"{share:.0%} of the weights of the blocks would stay in 16 bit, most of them because: "
        f"{largest}"
    )


def refuse_partial(plan: Plan, *, allowed: bool) -> None:
    """Refuse to call a model quantized whose blocks mostly are not.

    Args:
        plan: of all passes over the blocks.
        allowed: whether the user wants it all the same.

    Raises:
        ModelError: more than a third of the blocks' weights would stay in 16 bit, for reasons
            that are not the recipe's own.
    """
    for one in plan.passes:
        reason = why_partial(one)
        if reason and not allowed:
            raise ModelError(
                f"{reason}; 'plan --layers' lists them all, and --allow-partial "
                "(allow_partial: true) quantizes the rest"
            )


def traits_notes(traits: CodeTraits) -> list[str]:
    """Say what could not be checked on a small copy of the model."""
    if not traits.unchecked:
        return []
    what = (
        "routers go by what is around them, and whether blocks can be run one by one was not tried"
        if not traits.known
        else "these were not tried"
    )
    return [f"no small copy of the class shows all of its code ({traits.unchecked}): {what}"]


def check_on_text(skeleton: Skeleton, traits: CodeTraits) -> None:
    """Refuse a model whose largest list of blocks is not its language model.

    Raises:
        ModelError: text runs through none of the blocks.
    """
    if not traits.on_text:
        others = f", but through {', '.join(sorted(traits.lists))}" if traits.lists else ""
        raise ModelError(
            f"{type(skeleton.model).__name__}: text does not run through the blocks that hold most "
            f"weights ({skeleton.blocks[0]} …){others}; models of this kind are not quantized"
        )


def check_by_block(skeleton: Skeleton, traits: CodeTraits) -> None:
    """Refuse a model whose blocks cannot be run one after the other, for a run that has to.

    Raises:
        ModelError: with the reason, and what can be done in place of it.
    """
    reason, advice = traits.why_not_by_block, "tuning.iters=0 with tuning.init_scale=minmax"
    if reason:
        name = type(skeleton.model).__name__
        more = "" if advice in reason else f"; round it without data: --recipe rtn, or {advice}"
        raise ModelError(f"{name} cannot be tuned block by block: {reason}{more}")
