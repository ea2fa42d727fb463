"""The Python interface: one function for a whole run, and the class the field knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from autoround.device.registry import open_device
from autoround.errors import UsageError
from autoround.evaluate.models import load_any
from autoround.events import Sink, ignore
from autoround.export.dense_copy import copy_with_weights, write_dequantized
from autoround.export.preflight import check_output
from autoround.inference.by_block import load_to_check
from autoround.mixed_precision.score_file import Scores
from autoround.mixed_precision.search import (
    ChosenAllocation,
    choose_allocation,
    has_budget,
    score_layers,
    to_layer_rules,
)
from autoround.model.files.embedded import NAME as EMBEDDED_NAME
from autoround.model.files.embedded import embedded_model
from autoround.model.skeleton import Skeleton, adopt_model, not_streamed, open_model
from autoround.pipeline import Deliver, quantize_pass, run, write_passes
from autoround.planning.calibration import needed_tokenizer
from autoround.planning.code_roles import refuse_partial
from autoround.planning.plan import make_plan
from autoround.preparation import (
    Prepared,
    Request,
    computing,
    open_session,
    prepare,
    scoring_session,
)
from autoround.recipe.allocate import AllocateOptions
from autoround.recipe.flags import FLAGS
from autoround.recipe.load import OverrideSource, load_recipe
from autoround.recipe.schema import Recipe
from autoround.resume.policy import check_leftover
from autoround.session.block_output import BlockOutput
from autoround.session.session import Session
from autoround.types import Destination, Estimate, Plan, QuantizedTensor, RunResult

#: A folder, a hub id, a model in memory, or None for the embedded default.
Model: TypeAlias = str | Path | nn.Module | None


def quantize(
    model: Model = None,
    recipe: str | Path | Recipe = "default",
    *,
    output_dir: str | Path | Destination,
    device: str = "auto",
    tokenizer: Any = None,
    data: object | None = None,
    sink: Sink = ignore,
) -> RunResult:
    """Quantize a model by a recipe and write the result.

    Args:
        model: a folder, a hub id (``owner/name`` or ``owner/name@revision``), a transformers
            model (it is not changed), or None for the embedded default.
        recipe: a built-in name, a file, or a Recipe.
        output_dir: the folder, or a ``Destination`` that also says whether to resume an
            interrupted run and how many bytes of memory to use.
        device: auto, or the name of a device that ``autoround doctor`` lists.
        tokenizer: of transformers; needed for a model in memory when the calibration is text.
        data: calibration texts, or token ids of one sample each, in place of the recipe's dataset.
        sink: is told of every event of the run.

    Returns:
        What was done to each block, and the size and place of the result.

    Raises:
        AutoRoundError: what is wrong, wherever possible before any work is done.
    """
    place = _destination(output_dir)
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    request = make_request(
        model, loaded, device=device, tokenizer=tokenizer, data=data, stream=place.stream_hub
    )
    return run(_refuse_null(request), place, sink=sink)


def _destination(output_dir: str | Path | Destination) -> Destination:
    """Resolve where to write, and refuse what is in the way before a model is opened."""
    place = output_dir if isinstance(output_dir, Destination) else Destination(Path(output_dir))
    check_leftover(place)
    if not place.resume:
        check_output(place.folder)
    return place


def plan(
    model: Model = None,
    recipe: str | Path | Recipe = "default",
    *,
    device: str = "auto",
    tokenizer: Any = None,
    data: object | None = None,
    max_memory: int | None = None,
    stream_hub: bool = False,
) -> tuple[Plan, Estimate]:
    """Return what :func:`quantize` would do and what it would cost, without doing it.

    Args:
        model, recipe, tokenizer, data: as :func:`quantize` takes them.
        device: auto, or the name of a device; ``null`` plans for one that computes nothing.
        max_memory: bytes that the run may use; None for most of what is free.
        stream_hub: as ``Destination`` has it.

    Returns:
        The plan, ``serving`` of engines among it; its cost: bytes, and a range of seconds.

    Raises:
        AutoRoundError: whatever would stop the run before its first block.
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    request = make_request(
        model, loaded, device=device, tokenizer=tokenizer, data=data, stream=stream_hub
    )
    prepared = prepare(request, sink=ignore, max_memory=max_memory, may_score=False)
    return prepared.plan, prepared.estimate


def allocate(
    model: Model = None,
    recipe: str | Path | Recipe = "default",
    *,
    device: str = "auto",
    tokenizer: Any = None,
    data: object | None = None,
    work_dir: Path | None = None,
    sink: Sink = ignore,
) -> tuple[Recipe, ChosenAllocation, Scores]:
    """Find the bits of every layer under a recipe's budget, without quantizing anything.

    With ``allocate.scores`` set, scores come from that file, or go to it.

    Args:
        model, device, tokenizer, data, sink: as :func:`quantize` takes them.
        recipe: a built-in name, a file, or a Recipe, with one of the budgets of ``allocate``.
        work_dir: for activations that do not fit the memory; by default the system's folder.

    Returns:
        The recipe with a rule for each layer in place of the budget; what that was chosen from
        and is predicted to cost; and the scores of the layers.

    Raises:
        AutoRoundError: the recipe has no budget, or one that cannot be met.
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if not has_budget(loaded):
        raise UsageError(
            "this recipe has no budget: set allocate.avg_bits, allocate.target_size or "
            "allocate.max_kl"
        )
    request = make_request(model, loaded, device=device, tokenizer=tokenizer, data=data)
    with computing(_refuse_null(request)):
        session = scoring_session(request, sink=sink)
        scores = score_layers(loaded, session, folder=work_dir)
    chosen = choose_allocation(loaded, session.skeleton, session.plan, scores)
    return to_layer_rules(loaded, chosen, session.plan.outputs[0]), chosen, scores


def make_request(
    model: Model,
    recipe: Recipe,
    *,
    device: str = "auto",
    tokenizer: Any = None,
    data: object | None = None,
    stream: bool = False,
) -> Request:
    """Open the device and the model that arguments of :func:`quantize` name, and its tokenizer.

    Args:
        model, device, tokenizer, data: as :func:`quantize` takes them.
        recipe: a resolved one; it decides whether a tokenizer is needed.
        stream: whether files of weights come from the hub one after another.

    Raises:
        DeviceError, ModelError: one of them is not here or cannot be opened.
        DataError: the recipe reads text, and the model has no tokenizer.
    """
    runtime = open_device(device)
    skeleton, name = open_any(model, stream=stream)
    if tokenizer is None:
        tokenizer = needed_tokenizer(recipe, skeleton, data=data)
    return Request(skeleton, recipe, runtime, name, tokenizer, data, load_to_check)


def _refuse_null(request: Request) -> Request:
    """Refuse a run on the device that only knows shapes."""
    if request.runtime.device.type == "meta":
        raise UsageError("the null device computes nothing: use it with 'plan' or --dry-run only")
    return request


def open_any(model: Model, *, stream: bool = False) -> tuple[Skeleton, str]:
    """Open a model of any kind; returns it with the name the user knows it by.

    Raises:
        ModelError: there is no such model, or it is none that can be read.
        UsageError: it is to be streamed, and is none of the hub.
    """
    if stream and not isinstance(model, str | Path):
        raise UsageError(not_streamed("none of these is named"))
    if model is None:
        return open_model(embedded_model()), EMBEDDED_NAME
    if isinstance(model, nn.Module):
        skeleton = adopt_model(model)
        return skeleton, type(skeleton.model).__name__
    opened = open_model(model, stream=stream)
    return opened, str(model) if opened.hub is None else opened.hub.name.repo


@dataclass
class AutoRound:
    """Quantize one model, with the arguments this field is used to.

    Every argument left at None is what the recipe says; the default recipe means 4 bits,
    groups of 128, symmetric, 200 iterations, 128 samples of 2048 tokens. Which key each one sets
    is in the table ``autoround.recipe.flags.FLAGS``, which makes the command's options too.

    Args:
        model, tokenizer, device, sink: as :func:`quantize` takes them.
        bits: per weight, 2 to 8.
        group_size: weights per scale; -1 one scale per channel, 0 one per tensor.
        sym: whether the grid is symmetric, or has zero points.
        iters: tuning steps per block; 0 does not tune.
        lr: learning rate of the rounding offsets V.
        minmax_lr: learning rate of min_scale and max_scale (α and β of SignRound).
        nsamples, seqlen: calibration samples, and tokens of each.
        batch_size: samples per forward pass.
        gradient_accumulate_steps: forward passes whose gradients make one step.
        low_memory: whether to take the least memory of the device, one sample at a time.
        threads: of the processor.
        dataset: a dataset's name or file, or token ids or texts themselves.
        seed: of every random choice.
        allow_partial: whether more than a third of the blocks' weights may stay in 16 bit.
        layers: rules for some of the layers, as the recipe key of that name has them:
            ``[{"kind": "attention", "bits": 8}]``; the last that fits a layer decides.
        recipe: a built-in name or a file.
        overrides: ``path=value`` texts for any other key of the recipe, as ``--set`` takes them.

    Raises:
        RecipeError: an argument has a value that is not legal; all of these are named.
    """

    model: Model
    tokenizer: Any = None
    bits: int | None = None
    group_size: int | None = None
    sym: bool | None = None
    iters: int | None = None
    lr: float | None = None
    minmax_lr: float | None = None
    nsamples: int | None = None
    seqlen: int | None = None
    batch_size: int | None = None
    gradient_accumulate_steps: int | None = None
    low_memory: bool | None = None
    threads: int | None = None
    dataset: object | None = None
    seed: int | None = None
    allow_partial: bool | None = None
    layers: Sequence[Mapping[str, Any]] | None = None
    device: str = "auto"
    recipe: str | Path = "default"
    overrides: Sequence[str] = ()
    sink: Sink = ignore

    def __post_init__(self) -> None:
        self._outputs: list[BlockOutput] | None = None
        self._prepared: Prepared | None = None
        self._resolve("auto_round")

    def quantize(self) -> tuple[nn.Module, dict[str, QuantizedTensor]]:
        """Tune all blocks, and keep the quantized layers for :meth:`save_quantized`.

        Returns:
            A copy of the model with dequantized weights, in evaluation mode; codes uint8
            [out, in], scales and zero points [out, groups] of every quantized layer by its name.

        Raises:
            AutoRoundError: what is wrong, wherever possible before any work is done.
        """
        request = self._request("auto_round")
        outputs: list[BlockOutput] = []
        with computing(request):
            self._prepared = prepare(request, sink=self.sink)
            refuse_partial(self._prepared.plan, allowed=self._prepared.recipe.allow_partial)
            quantize_pass(open_session(self._prepared, sink=self.sink), outputs.append)
        self._outputs = outputs
        layers = {
            name: layer
            for output in outputs
            for name, layer in output.layers.items()
            if isinstance(layer, QuantizedTensor)
        }
        skeleton = request.skeleton
        if skeleton.folder is None:
            dense = copy_with_weights(skeleton)
        else:
            dense = load_any(skeleton.folder, device=str(request.runtime.device))
        return write_dequantized(dense, skeleton, self._prepared.plan, layers=layers), layers

    def save_quantized(self, output_dir: str | Path, format: str = "auto_round") -> RunResult:
        """Write the layers that :meth:`quantize` quantized.

        Args:
            output_dir: a folder that is empty or does not exist.
            format: name of a format whose grids are those of the layers.

        Raises:
            UsageError: nothing is quantized yet, or on other grids than the format needs.
            OutputError: the folder is in the way or cannot be written.
        """
        if self._prepared is None or self._outputs is None:
            raise UsageError("nothing is quantized yet: call quantize() before save_quantized()")
        self._resolve(format)
        folder, outputs = Path(output_dir), self._outputs
        check_output(folder)
        prepared = self._replanned(self._prepared, format)

        def produce(session: Session, deliver: Deliver) -> None:
            for output in outputs:
                deliver(output)

        session = open_session(prepared, sink=self.sink)
        return write_passes(prepared, [session], folder, produce=produce)

    def _replanned(self, prepared: Prepared, format: str) -> Prepared:
        """Give a finished run another format, where its codes can be held in it."""
        recipe, request = self._resolve(format), prepared.request
        if has_budget(recipe):
            # What a budget was resolved to is settled.
            settled = {"layers": prepared.recipe.layers, "allocate": AllocateOptions()}
            recipe = recipe.model_copy(update=settled)
        plan = make_plan(
            recipe,
            request.skeleton,
            runtime=request.runtime,
            calibration=prepared.plan.calibration,
            model=prepared.plan.model,
        )
        if plan.further or plan.blocks != prepared.plan.blocks:
            raise UsageError(
                f"what quantize() found has other grids than {format} needs; call "
                f"quantize_and_save(..., format={format!r}) instead"
            )
        return replace(prepared, recipe=recipe, plan=plan)

    def quantize_and_save(
        self, output_dir: str | Path | Destination, format: str = "auto_round"
    ) -> RunResult:
        """Tune and write block by block, holding one block at a time.

        Args:
            output_dir: the folder, or a ``Destination`` that also says whether to resume.
            format: name of a format, or several separated by commas, one sub-folder each.

        Raises:
            AutoRoundError: what is wrong, wherever possible before any work is done.
        """
        place = _destination(output_dir)
        return run(self._request(format, stream=place.stream_hub), place, sink=self.sink)

    def _resolve(self, format: str) -> Recipe:
        arguments = {flag.name: getattr(self, flag.name) for flag in FLAGS if flag.name != "format"}
        # Data itself is no name: it goes to the run beside the recipe.
        arguments |= {"dataset": self._dataset_name(), "format": format}
        values: dict[str, object] = {
            flag.key: OverrideSource(arguments[flag.name], f"{flag.name}={arguments[flag.name]!r}")
            for flag in FLAGS
            if arguments[flag.name] is not None
        }
        if self.layers is not None:
            # Without its words: a list of rules is too long for a message, which names the rule.
            values["layers"] = list(self.layers)
        return load_recipe(self.recipe, values=values, overrides=self.overrides)

    def _dataset_name(self) -> str | None:
        return str(self.dataset) if isinstance(self.dataset, str | Path) else None

    def _request(self, format: str, *, stream: bool = False) -> Request:
        data = None if isinstance(self.dataset, str | Path) else self.dataset
        model, recipe = self.model, self._resolve(format)
        request = make_request(
            model, recipe, device=self.device, tokenizer=self.tokenizer, data=data, stream=stream
        )
        return _refuse_null(request)
