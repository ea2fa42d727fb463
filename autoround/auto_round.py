"""The class that this field knows: one model, and the arguments people are used to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoround.calls import explain_calls
from autoround.errors import UsageError
from autoround.evaluate.models import load_any
from autoround.events import Sink, ignore
from autoround.export.dense_copy import copy_with_weights, write_dequantized
from autoround.gated import Gate, hold_to_gate, open_gate, run_gated
from autoround.mixed_precision.search import has_budget
from autoround.pipeline import Deliver, quantize_pass, write_passes
from autoround.planning.code_roles import refuse_partial
from autoround.planning.plan import make_plan
from autoround.preparation import Prepared, Request, computing, open_session, prepare
from autoround.recipe.allocate import AllocateOptions
from autoround.recipe.arguments import read_arguments
from autoround.recipe.flags import RUN_FLAGS, as_argument, choose_spelling
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import Recipe
from autoround.request import (
    Model,
    check_tokenizer,
    make_request,
    refuse_null,
    resolve_destination,
)
from autoround.session.block_output import BlockOutput
from autoround.session.session import Session
from autoround.types import Destination, QuantizedTensor, RunResult

#: Arguments that have another name in this field.
_ALIASES = {"low_memory": ("low_gpu_mem_usage",), "device": ("device_map",)}


@explain_calls
@dataclass
class AutoRound:
    """Quantize one model, with the arguments this field is used to.

    Every argument left at None is what the recipe says; the default recipe means 4 bits,
    groups of 128, symmetric, 200 iterations, 128 samples of 2048 tokens. Which key each one sets
    is in the table ``autoround.recipe.flags.RUN_FLAGS``, which makes the command's options too.

    Args:
        model, tokenizer, device, sink: as ``quantize`` takes them.
        scheme: bits, group size and symmetry by one name, ``W4A16``; they win over it.
        bits: per weight, 2 to 8.
        group_size: weights per scale; -1 one scale per channel, 0 one per tensor.
        sym: whether the grid is symmetric, or has zero points.
        layer_config: schemes of some layers by names, ends of names or regular expressions:
            ``{"model.layers.0.self_attn.q_proj": {"bits": 8}}``; they follow the recipe's rules.
        quant_lm_head: whether to quantize the output head, with the bits of the others.
        ignore_layers: names of layers to keep in 16 bit, beside those of the recipe.
        iters: tuning steps per block; 0 does not tune.
        lr: learning rate of the rounding offsets V.
        minmax_lr: learning rate of min_scale and max_scale (α and β of SignRound).
        nsamples, seqlen: calibration samples, and tokens of each.
        batch_size: samples per forward pass.
        gradient_accumulate_steps: forward passes whose gradients make one step.
        low_memory, low_gpu_mem_usage: whether to take the least memory of the device, one sample
            at a time; two names of one argument.
        enable_torch_compile: whether to compile blocks; by default where that is worth it.
        threads: of the processor.
        dataset: a dataset's name or file, or token ids or texts themselves.
        seed: of every random choice.
        allow_partial: whether more than a third of the blocks' weights may stay in 16 bit.
        eval_text: file that the gate's figures are measured on; by default embedded text.
        gate: bounds that the written result is held to, ``"ppl<=1.05x,kl<=0.1"``.
        avg_bits, target_size, max_kl: budget for the bits of layers, of which a run has one.
        options: what layers may be held in under a budget, ``"W2,W4,W8"``.
        scores: file that the layers' scores are kept in, for other budgets.
        layers: rules for some of the layers, as the recipe key of that name has them:
            ``[{"kind": "attention", "bits": 8}]``; the last that fits a layer decides.
        device_map: another name of device.
        recipe: a built-in name or a file.
        overrides: ``path=value`` texts for any other key of the recipe, as ``--set`` takes them.

    Raises:
        RecipeError: an argument has a value that is not legal; all of these are named.
        UsageError: an argument is nothing that it can be, or two names of one say two things.
    """

    model: Model
    tokenizer: Any = None
    _: KW_ONLY
    scheme: str | Mapping[str, Any] | None = None
    bits: int | None = None
    group_size: int | None = None
    sym: bool | None = None
    layer_config: str | Mapping[str, Any] | None = None
    quant_lm_head: bool | None = None
    ignore_layers: str | Sequence[str] | None = None
    iters: int | None = None
    lr: float | None = None
    minmax_lr: float | None = None
    nsamples: int | None = None
    seqlen: int | None = None
    batch_size: int | None = None
    gradient_accumulate_steps: int | None = None
    low_memory: bool | None = None
    low_gpu_mem_usage: bool | None = None
    enable_torch_compile: bool | None = None
    threads: int | None = None
    dataset: object | None = None
    seed: int | None = None
    allow_partial: bool | None = None
    eval_text: str | Path | None = None
    gate: str | None = None
    avg_bits: float | None = None
    target_size: str | None = None
    max_kl: float | None = None
    options: str | Sequence[str] | None = None
    scores: str | Path | None = None
    layers: Sequence[Mapping[str, Any]] | None = None
    device: str | int = "auto"
    device_map: str | int | None = None
    recipe: str | Path = "default"
    overrides: Sequence[str] = ()
    sink: Sink = ignore

    def __post_init__(self) -> None:
        self._outputs: list[BlockOutput] | None = None
        self._prepared: Prepared | None = None
        self._gate: Gate | None = None
        check_tokenizer(self.tokenizer)
        self._device: str | int = self._choose("device", default="auto")
        self._resolve("auto_round")

    def quantize(self) -> tuple[nn.Module, dict[str, QuantizedTensor]]:
        """Tune all blocks, and keep the quantized layers for ``save_quantized``.

        Returns:
            A copy of the model with dequantized weights, in evaluation mode; codes uint8
            [out, in], scales and zero points [out, groups] of every quantized layer by its name.

        Raises:
            AutoRoundError: what is wrong, wherever possible before any work is done.
        """
        request = self._request("auto_round")
        outputs: list[BlockOutput] = []
        self._gate = open_gate(request)
        with computing(request):
            self._prepared = prepare(request, sink=self.sink)
            refuse_partial(self._prepared.plan, allowed=self._prepared.recipe.allow_partial)
            cpu = torch.device("cpu")
            quantize_pass(
                open_session(self._prepared, sink=self.sink),
                lambda output: outputs.append(output.on(cpu)),
            )
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

    @explain_calls
    def save_quantized(self, output_dir: str | Path, format: str = "auto_round") -> RunResult:
        """Write the layers that ``quantize`` quantized.

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
        folder, outputs = resolve_destination(output_dir).folder, self._outputs
        prepared = self._replanned(self._prepared, format)

        def produce(session: Session, deliver: Deliver) -> None:
            for output in outputs:
                deliver(output)

        session = open_session(prepared, sink=self.sink)
        result = write_passes(prepared, [session], folder, produce=produce)
        if self._gate is None:
            return result
        return hold_to_gate(self._gate, prepared.request, result, sink=self.sink)

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
            fresh=prepared.calibration.fresh_samples,
        )
        if plan.further or plan.blocks != prepared.plan.blocks:
            raise UsageError(
                f"what quantize() found has other grids than {format} needs; call "
                f"quantize_and_save(..., format={format!r}) instead"
            )
        return replace(prepared, recipe=recipe, plan=plan)

    @explain_calls
    def quantize_and_save(
        self,
        output_dir: str | Path | Destination,
        format: str | Sequence[str] = "auto_round",
    ) -> RunResult:
        """Tune and write block by block, holding one block at a time.

        Args:
            output_dir: the folder, or a ``Destination`` that also says whether to resume.
            format: name of a format, or several separated by commas, one sub-folder each.

        Raises:
            AutoRoundError: what is wrong, wherever possible before any work is done.
        """
        place = resolve_destination(output_dir)
        return run_gated(self._request(format, stream=place.stream_hub), place, sink=self.sink)

    def _resolve(self, format: str | Sequence[str]) -> Recipe:
        arguments = {name: getattr(self, name, None) for name in (flag.name for flag in RUN_FLAGS)}
        # Data itself is no name: it goes to the run beside the recipe.
        arguments |= {"dataset": self._dataset_name(), "format": format}
        arguments["low_memory"] = self._choose("low_memory")
        changes = read_arguments(
            RUN_FLAGS, arguments, typed=lambda flag, value: as_argument(flag.name, value)
        )
        values = dict(changes.values)
        if self.layers is not None:
            # Without its words: a list of rules is too long for a message, which names the rule.
            values["layers"] = list(self.layers)
        recipe: object = self.recipe
        if not isinstance(recipe, str | Path):
            raise UsageError(
                f"recipe is a {type(recipe).__name__}, and can be a built-in name or a file here; "
                "quantize(model, recipe) takes a Recipe"
            )
        return load_recipe(
            recipe, values=values, additions=changes.additions, overrides=self.overrides
        )

    def _choose(self, name: str, *, default: Any = None) -> Any:
        """Return the value of an argument that has two names."""
        value = getattr(self, name)
        spellings = {name: None if value == default else value}
        spellings |= {alias: getattr(self, alias) for alias in _ALIASES[name]}
        chosen = choose_spelling(spellings, name, _ALIASES[name], typed=str)
        return value if chosen is None else chosen

    def _dataset_name(self) -> str | None:
        return str(self.dataset) if isinstance(self.dataset, str | Path) else None

    def _request(self, format: str | Sequence[str], *, stream: bool = False) -> Request:
        data = None if isinstance(self.dataset, str | Path) else self.dataset
        model, recipe = self.model, self._resolve(format)
        request = make_request(
            model, recipe, device=self._device, tokenizer=self.tokenizer, data=data, stream=stream
        )
        return refuse_null(request)
