"""Bits found under a budget: score the layers, choose, and say the choice as a recipe by hand.

What comes out is a recipe with a rule for every layer and no budget; all that follows knows of
nothing else, and anybody can run that recipe again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoround.core.allocate import Allocation, Choice, curve, least_loss, least_size
from autoround.data.tokens import Tokens
from autoround.errors import DataError, RecipeError
from autoround.formats.registry import format_of
from autoround.mixed_precision.layer_groups import (
    LayerGroup,
    layer_groups,
    module_name,
    scored_head,
    scored_modules,
)
from autoround.mixed_precision.options import options_for, schemes_of
from autoround.mixed_precision.score_file import Scores, load_scores, save_scores, scores_identity
from autoround.mixed_precision.sensitivity import layer_losses
from autoround.model.skeleton import Skeleton
from autoround.planning.estimate import disk_bytes
from autoround.recipe.allocate import AllocateOptions
from autoround.recipe.layers import LayerRule
from autoround.recipe.schema import Recipe
from autoround.session.session import Session
from autoround.types import OutputPlan, Plan, Scheme


@dataclass(frozen=True, slots=True)
class ChosenAllocation:
    """An allocation: what was chosen of what, and what it is predicted to cost.

    groups, losses, picks: for each group, the loss of each of its options, and the one chosen.
    fixed: bytes of all else that is written. budget: its key in the recipe, and its value.
    corners: the best allocations of other sizes, the smallest first.
    """

    groups: tuple[LayerGroup, ...]
    losses: tuple[tuple[float, ...], ...]
    picks: tuple[int, ...]
    fixed: int
    budget: tuple[str, float]
    corners: tuple[Allocation, ...]
    unreached: tuple[str, ...]

    @property
    def schemes(self) -> list[tuple[LayerGroup, Scheme | None]]:
        """Every group with what it was given."""
        return [
            (group, group.options[pick])
            for group, pick in zip(self.groups, self.picks, strict=True)
        ]

    @property
    def loss(self) -> float:
        """The predicted divergence from the original, in nats per token."""
        return sum(own[pick] for own, pick in zip(self.losses, self.picks, strict=True))

    @property
    def size(self) -> int:
        """The bytes of the groups."""
        return sum(group.sizes[pick] for group, pick in zip(self.groups, self.picks, strict=True))

    @property
    def counts(self) -> dict[str, int]:
        """How many layers got each scheme, by the words for it; the fewest bits first."""
        found: dict[Scheme | None, int] = {}
        for group, scheme in self.schemes:
            found[scheme] = found.get(scheme, 0) + len(group.layers)
        return {str(s or "16 bit"): found[s] for s in sorted(found, key=rank)}

    @property
    def weights(self) -> int:
        """The number of weights that were decided on."""
        return sum(group.weights for group in self.groups)

    @property
    def bits(self) -> float:
        """The bits of a weight on average, scales and zero points counted."""
        return 8 * self.size / self.weights


def has_budget(recipe: Recipe) -> bool:
    """Tell whether a recipe leaves bits to a budget.

    Raises:
        RecipeError: it names more than one.
    """
    budgets = recipe.allocate.budgets
    if len(budgets) > 1:
        raise RecipeError(f"allocate: {' and '.join(budgets)} are both given; keep one of them")
    return bool(budgets)


def score_layers(recipe: Recipe, session: Session, *, folder: Path | None = None) -> Scores:
    """Score every layer in every option, or read the scores from the file that the recipe names.

    Args:
        recipe: with a bit budget.
        session: of the recipe's plan as if it had none.
        folder: for activations that do not fit the memory.

    Raises:
        RecipeError: the file holds other scores.
    """
    options = recipe.allocate
    if session.tokens is None:
        raise DataError("layers are scored on calibration data, and this run has none")
    session.skeleton.fetch_weights(session.sink)
    tokens = _first(session.tokens, options.nsamples)
    session = replace(session, tokens=tokens, plan=_packed(recipe, session.plan))
    path = None if options.scores == "none" else Path(options.scores)
    identity = scores_identity(options, session)
    if path is not None and path.exists():
        return load_scores(path, identity=identity)
    started = time.perf_counter()
    head = scored_head(recipe, session.skeleton, session.plan)
    losses = layer_losses(
        session,
        scored_modules(recipe, session.skeleton, session.plan),
        head=head,
        tuned_steps=options.iters if options.method == "measured" else 0,
        folder=folder,
    )
    scores = Scores(
        identity,
        {name: {str(s): loss for s, loss in of_name.items()} for name, of_name in losses.items()},
        int(tokens.mask.sum()),
        max(0.0, time.perf_counter() - started),
        session.runtime.peak_bytes(),
    )
    if path is not None:
        save_scores(path, scores)
    return scores


def _packed(recipe: Recipe, plan: Plan) -> Plan:
    """Give the first output the layout that holds all options together."""
    output = plan.outputs[0]
    schemes = {scheme for scheme in schemes_of(recipe, output) if scheme is not None}
    layout = format_of(output).layout_for(schemes)
    return replace(plan, outputs=(replace(output, packing=layout.name), *plan.outputs[1:]))


def _first(tokens: Tokens, count: int) -> Tokens:
    """Return the first samples, at most ``count``."""
    return replace(
        tokens,
        ids=tokens.ids[:count],
        lengths=tokens.lengths[:count],
        media=tokens.media[:count],
    )


def choose_allocation(
    recipe: Recipe, skeleton: Skeleton, plan: Plan, scores: Scores
) -> ChosenAllocation:
    """Find the best allocation under the recipe's budget.

    plan: of the recipe without its budget. scores: of this model.

    Raises:
        RecipeError: the options cannot meet the budget, or were not scored.
    """
    if plan.further:
        raise RecipeError(
            f"allocate: the formats of {recipe.output.format} hold weights in different ways, and "
            "an allocation is for one: quantize to one of them at a time"
        )
    groups = layer_groups(recipe, skeleton, plan)
    losses, unreached = [], []
    for number, group in enumerate(groups):
        own = _group_losses(group, scores)
        if any(map(math.isnan, own)):
            # Nothing is known of it: it gets the most that there is.
            most = max(range(len(group.options)), key=lambda pick: group.sizes[pick])
            group = replace(group, options=(group.options[most],), sizes=(group.sizes[most],))
            groups[number], own = group, (0.0,)
            unreached.append(group.name)
        losses.append(own)
    choices = [
        [Choice(size, loss) for size, loss in zip(group.sizes, own, strict=True)]
        for group, own in zip(groups, losses, strict=True)
    ]
    fixed = disk_bytes(plan, skeleton) - sum(
        _planned_bytes(group, plan, skeleton) for group in groups
    )
    if not groups:
        raise RecipeError("allocate: rules or ignore decide about every layer; none is left")
    budget = next(iter(recipe.allocate.budgets.items()))
    corners = curve(choices)
    found = _within(budget, groups, choices, fixed=fixed)
    if found is None:
        raise RecipeError(_out_of_reach(budget, groups, corners, fixed))
    return ChosenAllocation(
        tuple(groups),
        tuple(losses),
        found.picks,
        fixed,
        budget,
        tuple(corners),
        tuple(unreached),
    )


def _group_losses(group: LayerGroup, scores: Scores) -> tuple[float, ...]:
    parts = dict.fromkeys(map(module_name, group.layers))
    return tuple(sum(scores.loss(part, option) for part in parts) for option in group.options)


def _planned_bytes(group: LayerGroup, plan: Plan, skeleton: Skeleton) -> int:
    """Return the bytes that a group takes in a plan; a tied head that is kept is not written."""
    tied = {x.name for x in group.layers if x.scheme is None and x.tensor in skeleton.tied}
    kind = options_for(plan.outputs[0])
    return sum(kind.layer_bytes(x, x.scheme) for x in group.layers if x.name not in tied)


def _within(
    budget: tuple[str, float],
    groups: Sequence[LayerGroup],
    choices: Sequence[Sequence[Choice]],
    *,
    fixed: int,
) -> Allocation | None:
    key, value = budget
    if key == "max_kl":
        return least_size(choices, loss=value)
    if key == "target_size":
        return least_loss(choices, size=value - fixed)
    return least_loss(choices, size=value * sum(group.weights for group in groups) / 8)


def _out_of_reach(
    budget: tuple[str, float],
    groups: Sequence[LayerGroup],
    corners: Sequence[Allocation],
    fixed: int,
) -> str:
    key, value = budget
    if key == "max_kl":
        least = min(corner.loss for corner in corners)
        return (
            f"allocate.max_kl: {value:g} is less than the {least:.3g} that the options cost at "
            "best; add an option of more bits, or 16"
        )
    if key == "target_size":
        return (
            f"allocate.target_size: {value / 1e6:.1f} MB is less than the "
            f"{(fixed + corners[0].size) / 1e6:.1f} MB that the options take at least "
            f"({fixed / 1e6:.1f} MB of it for what is not decided on)"
        )
    least = 8 * corners[0].size / sum(group.weights for group in groups)
    return (
        f"allocate.avg_bits: {value:g} is less than the {least:.3f} bits that the options take at "
        "least, scales and zero points counted; add an option of fewer bits or of larger groups"
    )


def to_layer_rules(recipe: Recipe, allocated: ChosenAllocation, output: OutputPlan) -> Recipe:
    """Say an allocation as a recipe: rules for its layers in place of the budget."""
    named: dict[Scheme | None, list[str]] = {}
    for group, scheme in allocated.schemes:
        whole = group.name.endswith(".*")
        named.setdefault(scheme, []).extend(
            [group.name] if whole else [layer.name for layer in group.layers]
        )
    rules = tuple(rule(scheme, named[scheme], output) for scheme in sorted(named, key=rank))
    return recipe.model_copy(
        update={"layers": (*recipe.layers, *rules), "allocate": AllocateOptions()}
    )


def rank(scheme: Scheme | None) -> tuple[int, str]:
    """Return a key that orders schemes by their bits."""
    return (16, "") if scheme is None else (scheme.bits, str(scheme))


def rule(scheme: Scheme | None, names: Sequence[str], output: OutputPlan) -> LayerRule:
    """Return the rule that gives layers a scheme, as the recipes of a format have it."""
    if scheme is None:
        return LayerRule(match=tuple(names), bits=16)
    return options_for(output).rule(scheme, names)
