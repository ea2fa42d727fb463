"""The plan: a recipe resolved against a model, before anything is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from autoround.device.protocol import Runtime, device_name
from autoround.errors import ModelError, RecipeError
from autoround.formats import registry
from autoround.formats.registry import format_of
from autoround.model.blocks import Matrix, head_path, matrices
from autoround.model.probe.traits import CodeTraits, code_traits
from autoround.model.skeleton import Skeleton
from autoround.planning.code_roles import (
    check_by_block,
    check_on_text,
    kept_tensors,
    traits_notes,
    with_code_traits,
    without_shared,
)
from autoround.planning.format_names import check_formats
from autoround.planning.gguf import PassPlan, gguf_pass
from autoround.planning.hyperparameters import needs_data, settle
from autoround.planning.kept_dtype import dtype_notes, dtype_of_run, kept_dtype, with_float32
from autoround.planning.layer_rules import Rules, apply_rules, closest_name_hint
from autoround.planning.layer_scheme import matches, plan_block, plan_scheme
from autoround.planning.non_block_layers import plan_non_block_layers
from autoround.planning.output_formats import plan_outputs, weights_asked_for
from autoround.planning.serving.findings import with_engine_findings
from autoround.recipe.schema import Recipe
from autoround.settings import MachineSettings, TuningSettings
from autoround.types import LayerPlan, OutputPlan, Plan


def make_plan(
    recipe: Recipe,
    skeleton: Skeleton,
    *,
    runtime: Runtime,
    calibration: str,
    model: str,
    interrupted: MachineSettings | None = None,
    fresh: int | None = None,
) -> Plan:
    """Resolve a recipe against a model: every matrix gets a scheme or a reason.

    Formats whose grids agree share a pass; the first has the others as its ``further`` ones.

    Args:
        recipe: what the user asked for, without a bit budget or with that resolved.
        skeleton: the model's structure; no weight is read. runtime: the device.
        calibration: the calibration tokens in words.
        model: the name the user knows it by.
        interrupted: dtype and threads that an interrupted run had settled, to be kept.
        fresh: samples that end-to-end tuning has to itself; None for what the recipe asks for.

    Raises:
        RecipeError: a pattern of ``ignore`` matches no layer.
        ModelError: no layer is left to quantize, or the group size divides none.
        FormatError: a format cannot hold the scheme, or the architecture.
    """
    check_formats(recipe)
    traits = code_traits(skeleton.model, skeleton.blocks)
    check_on_text(skeleton, traits)
    if needs_data(recipe):
        check_by_block(skeleton, traits)
    inside, outside = _matrices(skeleton, traits)
    every = [matrix for block in inside.values() for matrix in block]
    _check_patterns(recipe.ignore, [m.name for m in [*every, *outside]])
    rules = apply_rules(recipe, skeleton, inside, outside)
    dtype = kept_dtype(recipe, skeleton)
    weights = weights_asked_for(rules, skeleton, every, outside)
    schemes = rules.where(m.name for m in every)
    outputs = plan_outputs(recipe, dtype, schemes=schemes, weights=weights)
    plans = []
    for one in _passes(rules, skeleton, inside, outside, outputs):
        plans.append(
            Plan(
                model=model,
                architecture=type(skeleton.model).__name__,
                blocks=one.blocks,
                kept=one.kept,
                recipe=recipe.to_dict(),
                outputs=one.outputs,
                dtype=dtype_of_run(dtype, skeleton, outputs),
                device=device_name(runtime),
                calibration=calibration,
                tensors=len(skeleton.keys) + len(skeleton.unmapped),
                notes=_notes(one, recipe, skeleton, model),
                rules=one.rules,
                tuning=_settle(one, recipe, skeleton, runtime, interrupted, fresh),
            )
        )
    return _joined(plans, skeleton, traits, _common_notes(plans, recipe, skeleton, outputs))


def _matrices(
    skeleton: Skeleton, traits: CodeTraits
) -> tuple[dict[str, list[Matrix]], list[Matrix]]:
    """Return the matrices of each block, and those outside, with why some of them are kept."""
    model = skeleton.model
    inside = {
        block: without_shared(with_code_traits(matrices(model, block), traits, model), skeleton)
        for block in skeleton.blocks
    }
    return inside, with_code_traits(outside_of(skeleton), traits, model)


def _joined(
    plans: Sequence[Plan], skeleton: Skeleton, traits: CodeTraits, notes: Iterable[str]
) -> Plan:
    """Add what every pass has of the model, and give the first pass the further ones."""
    revision = None if skeleton.hub is None else skeleton.hub.commit
    first, *further = (
        replace(
            p,
            kept_tensors=kept_tensors(skeleton, p.blocks, traits),
            revision=revision,
            streams=traits.streams,
            why_not_by_block=traits.why_not_by_block,
            runs_on_text=traits.known,
        )
        for p in with_float32(plans, skeleton)
    )
    notes = (*first.notes, *notes, *traits_notes(traits))
    return with_engine_findings(replace(first, notes=notes, further=tuple(further)))


def _common_notes(
    plans: list[Plan], recipe: Recipe, skeleton: Skeleton, outputs: Iterable[OutputPlan]
) -> list[str]:
    """Return the notes that are about the whole run, and stand with its first pass."""
    notes = [*_pass_notes(plans), *_end_to_end_notes(recipe, outputs)]
    return [*notes, *_extra_notes(skeleton, outputs)]


def _notes(one: PassPlan, recipe: Recipe, skeleton: Skeleton, model: str) -> tuple[str, ...]:
    """Return the notes on a pass and its formats."""
    layers = [*_layers_to_quantize(one, model), *one.kept]
    kept = dtype_notes(recipe, skeleton, one.outputs)
    return (*kept, *one.notes, *registry.notes(layers, one.outputs))


def _layers_to_quantize(one: PassPlan, model: str) -> list[LayerPlan]:
    """Return the layers of a pass's blocks.

    Raises:
        ModelError: none of them gets a scheme.
    """
    layers = [layer for block in one.blocks for layer in block.layers]
    if all(layer.scheme is None for layer in layers):
        reasons = sorted({layer.reason for layer in layers})
        raise ModelError(
            f"nothing to quantize in {model}: every layer of its blocks is kept "
            f"({'; '.join(reasons)})"
        )
    return layers


def _settle(
    one: PassPlan,
    recipe: Recipe,
    skeleton: Skeleton,
    runtime: Runtime,
    interrupted: MachineSettings | None,
    fresh: int | None,
) -> TuningSettings:
    """Settle the hyperparameters of one pass by what it writes."""
    gguf_types = [format_of(output).gguf_types for output in one.outputs]
    non_block = () if all(gguf_types) else tuple(x.name for x in one.kept if x.scheme is not None)
    settled = settle(
        recipe,
        runtime,
        blocks=one.blocks,
        interrupted=interrupted,
        non_block_layers=non_block,
        head=head_path(skeleton.model),
        tunes_scales=not any(gguf_types),
    )
    if fresh is None or not settled.end_to_end.steps:
        return settled
    return replace(settled, end_to_end=replace(settled.end_to_end, nsamples=fresh))


def _passes(
    rules: Rules,
    skeleton: Skeleton,
    found: dict[str, list[Matrix]],
    outside: list[Matrix],
    written: tuple[OutputPlan, ...],
) -> list[PassPlan]:
    """Give formats whose blocks come out alike one pass, and others one each."""
    passes: list[PassPlan] = []
    for outputs in _families(written):
        if format_of(outputs[0]).gguf_types:
            one = gguf_pass(rules, skeleton, found, outside, outputs)
        else:
            _check_groups(rules, [m for own in found.values() for m in own])
            one = _plain_pass(rules, skeleton, found, outside, outputs)
        equal = next((i for i, other in enumerate(passes) if other.blocks == one.blocks), None)
        if equal is None:
            passes.append(one)
        else:
            passes[equal] = _merged(passes[equal], one)
    return passes


def _families(outputs: tuple[OutputPlan, ...]) -> list[tuple[OutputPlan, ...]]:
    """Group formats that take their schemes from the same place: the recipe, or themselves."""
    plain = tuple(output for output in outputs if not format_of(output).gguf_types)
    own = [(output,) for output in outputs if format_of(output).gguf_types]
    return [plain, *own] if plain else [*own]


def _merged(one: PassPlan, other: PassPlan) -> PassPlan:
    notes = dict.fromkeys((*one.notes, *other.notes))
    rules = dict.fromkeys((*one.rules, *other.rules))
    return PassPlan(
        one.blocks, one.kept, (*one.outputs, *other.outputs), tuple(notes), tuple(rules)
    )


def _pass_notes(plans: list[Plan]) -> list[str]:
    if len(plans) < 2:
        return []
    listed = "; ".join(", ".join(output.format for output in plan.outputs) for plan in plans)
    return [
        f"the grids of these formats differ, so the blocks are done {len(plans)} times, and each "
        f"time takes as long: {listed}"
    ]


def _end_to_end_notes(recipe: Recipe, outputs: Iterable[OutputPlan]) -> list[str]:
    own = [output.format for output in outputs if format_of(output).gguf_types]
    if not recipe.end_to_end.steps or not own:
        return []
    return [f"end_to_end is left out for {', '.join(own)}: GGUF uses its own scale encoding"]


def _plain_pass(
    rules: Rules,
    skeleton: Skeleton,
    found: dict[str, list[Matrix]],
    outside: list[Matrix],
    outputs: tuple[OutputPlan, ...],
) -> PassPlan:
    scheme, ignore = rules.recipe.scheme.as_scheme(), rules.recipe.ignore
    blocks = tuple(
        plan_block(
            i,
            name,
            (
                plan_scheme(skeleton, m, rules.asked(m.name, scheme), ignore, outputs)
                for m in inside
            ),
        )
        for i, (name, inside) in enumerate(found.items())
    )
    quantized = [layer for block in blocks for layer in block.quantized]
    kept, notes = plan_non_block_layers(rules, skeleton, outside, outputs)
    every = [layer for block in blocks for layer in block.layers]
    report = rules.report([*every, *kept], gguf=False)
    return PassPlan(blocks, kept, outputs, (*_group_notes(quantized, outputs), *notes), report)


def outside_of(skeleton: Skeleton) -> list[Matrix]:
    """Return the matrices that lie outside the decoder blocks."""
    prefixes = tuple(block + "." for block in skeleton.blocks)
    return [m for m in matrices(skeleton.model, "") if not m.name.startswith(prefixes)]


def _check_patterns(patterns: Iterable[str], names: list[str]) -> None:
    errors = [
        f"ignore: {pattern!r} matches no layer of this model{closest_name_hint(pattern, names)}"
        for pattern in patterns
        if not any(matches(pattern, name) for name in names)
    ]
    if errors:
        raise RecipeError("\n".join(errors))


def _check_groups(rules: Rules, every: list[Matrix]) -> None:
    """Refuse a group size that divides the input width of none of the layers it is asked for."""
    base = rules.recipe.scheme.as_scheme()
    widths: dict[int, set[int]] = {}
    asking: dict[int, str] = {}
    for m in every:
        scheme, index = rules.asked(m.name, base).scheme, rules.plain(m.name)
        if scheme is not None:
            widths.setdefault(scheme.group_size, set()).add(m.shape[1])
            by = "" if index is None else f"{rules.place(index)}: "
            asking.setdefault(scheme.group_size, by)
    for size, found in widths.items():
        _check_group(size, sorted(found), asking[size])


def _check_group(size: int, widths: list[int], asking: str) -> None:
    if size <= 0 or any(width % size == 0 for width in widths):
        return
    fitting = [g for g in (256, 128, 64, 32, 16) if all(w % g == 0 for w in widths)]
    shown = ", ".join(map(str, widths[:6])) + (", …" if len(widths) > 6 else "")
    raise ModelError(
        f"{asking}group size {size} divides the input width of no layer (widths: {shown}); use "
        f"{' or '.join([*map(str, fitting[:2]), '-1 (one group per channel)'])}"
    )


def _group_notes(layers: list[LayerPlan], outputs: Iterable[OutputPlan]) -> list[str]:
    # Weights that are written out have no groups.
    formats = [x.format for x in outputs if not registry.layout_named(x.packing).dense]
    if not formats:
        return []
    short: dict[int, set[int]] = {}
    for x in layers:
        size = 0 if x.scheme is None else x.scheme.group_size
        if size > 0 and x.shape[1] % size:
            short.setdefault(size, set()).add(x.shape[1])
    return [
        f"{', '.join(formats)}: group size {size} does not divide input widths "
        f"{', '.join(map(str, sorted(widths)))}: the last group of such a row is shorter"
        for size, widths in short.items()
    ]


def _extra_notes(skeleton: Skeleton, outputs: Iterable[OutputPlan]) -> list[str]:
    if not skeleton.unmapped:
        return []
    kinds = {format_of(output).gguf_types for output in outputs}
    fate = "copied unchanged" if False in kinds else "left out"
    if len(kinds) > 1:
        fate = "copied unchanged, and left out of GGUF files"
    return [
        f"{len(skeleton.unmapped)} tensors that the model class does not know, such as "
        f"{skeleton.unmapped[0]}, are {fate}"
    ]
