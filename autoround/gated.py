"""A run, and the gate that what it writes is held to."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoround.data.embedded import embedded_split
from autoround.data.encode import check_ids
from autoround.data.holdout import check_text, text_tokens
from autoround.errors import GateError, UsageError
from autoround.evaluate.gate import Exam, Verdict, judge
from autoround.evaluate.models import load_any
from autoround.evaluate.perplexity import OnWindow, windows
from autoround.evaluate.reference import RecordedModel, count_from, record
from autoround.events import Judged, Sink, StageStarted, WindowScored
from autoround.export.dense_copy import copy_with_weights
from autoround.model.files.gate_mark import mark_folder
from autoround.model.files.tokenizer import load_tokenizer
from autoround.model.positions import position_limit, vocabulary_size
from autoround.pipeline import run
from autoround.preparation import Request
from autoround.recipe.gate import NONE, Bound, parse_gate
from autoround.report.saved import save_evaluation, text_name
from autoround.types import Destination, EvalResult, RunResult


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate that can be asked about: its bounds, and the tokens of its text, int64 [n]."""

    bounds: tuple[Bound, ...]
    ids: Tensor
    text: str
    seqlen: int

    def __str__(self) -> str:
        return ",".join(map(str, self.bounds))


class MissedGateError(GateError):
    """A bound of the gate is missed.

    result: of the run, whose folder is marked.
    """

    def __init__(self, message: str, result: RunResult) -> None:
        super().__init__(message)
        self.result = result


def run_gated(request: Request, output: Path | Destination, *, sink: Sink) -> RunResult:
    """Quantize a model, write it, and hold what is written to the recipe's gate.

    Args:
        request: what to quantize and how.
        output: the folder, or a destination that also says whether to resume.
        sink: is told of every event.

    Raises:
        GateError: a bound is missed; what is written stays, marked.
        AutoRoundError: anything else, before any work where that is possible.
    """
    gate = open_gate(request)
    result = run(request, output, sink=sink)
    return result if gate is None else hold_to_gate(gate, request, result, sink=sink)


def open_gate(request: Request) -> Gate | None:
    """Read the text of a recipe's gate, and refuse what could not be judged after the run.

    Args:
        request: what is quantized, and by which recipe.

    Returns:
        None where the recipe has no gate.

    Raises:
        UsageError: there is no tokenizer, or no original to compare with; or windows are longer
            than the model has positions for.
        DataError: the text cannot be read.
    """
    options, skeleton = request.recipe.evaluation, request.skeleton
    if options.text != NONE:
        check_text(Path(options.text))
    bounds = parse_gate(options.gate)
    if not bounds:
        return None
    compared = [str(bound) for bound in bounds if bound.needs_original]
    if skeleton.stream is not None and compared:
        raise UsageError(
            f"--stream-hub never has the whole original on the disk, and {compared[0]} compares "
            "with it: bound ppl by a number, or leave one of them out"
        )
    tokenizer = request.tokenizer
    if tokenizer is None and skeleton.folder is None:
        raise UsageError("the gate scores text: give the tokenizer of the model in memory, too")
    if tokenizer is None:
        assert skeleton.folder is not None
        tokenizer = load_tokenizer(skeleton.folder)
    path = None if options.text == NONE else Path(options.text)
    text = embedded_split()[1] if path is None else path
    ids = text_tokens(text, tokenizer, max_tokens=options.max_tokens)
    limit = position_limit(skeleton.model)
    if limit is not None and min(options.seqlen, len(ids)) > limit:
        raise UsageError(
            f"the gate scores windows of {options.seqlen} tokens, and the model has positions for "
            f"{limit} only; set evaluation.seqlen to {limit} or less"
        )
    size = vocabulary_size(skeleton.model)
    check_ids(int(ids.min()), int(ids.max()), vocab_size=size, where="the evaluation text")
    return Gate(bounds, ids, text_name(path), options.seqlen)


def hold_to_gate(gate: Gate, request: Request, result: RunResult, *, sink: Sink) -> RunResult:
    """Judge what a run has written, each format by itself, and keep the figures beside it.

    Args:
        gate: of the recipe.
        request: what was quantized.
        result: of the run.
        sink: is told of the windows that are scored, and the verdicts.

    Returns:
        The result with the figures of its first format.

    Raises:
        GateError: a bound is missed; the folder is marked.
    """
    sink(StageStarted("gate", f"{gate} on {len(gate.ids)} tokens, {gate.text}"))
    outputs = result.plan.all_outputs
    folders = [result.output_dir / output.folder for output in outputs]
    for folder in folders:
        # Until it has passed; nobody takes what was being judged when the process ended.
        mark_folder(folder, [f"the gate {gate} was not finished"])
    has_original = request.skeleton.stream is None
    count, done = len(list(windows(gate.ids, gate.seqlen))), 0
    total = count * (len(outputs) + has_original)

    def tell(window: int, of: int) -> None:
        sink(WindowScored(window, of))

    exam = Exam(gate.bounds, gate.ids, gate.seqlen, str(request.runtime.device))
    if has_original:
        exam = _with_original(exam, request, on_window=count_from(tell, done, total))
        done += count
    failures: list[str] = []
    first: EvalResult | None = None
    for folder, output in zip(folders, outputs, strict=True):
        verdict = judge(folder, exam, on_window=count_from(tell, done, total))
        done += count
        _keep(folder, gate, verdict, request.model_name)
        sink(Judged(str(folder), str(gate), verdict.figures, verdict.failures))
        prefix = f"{output.format}: " if len(outputs) > 1 else ""
        failures += [prefix + text for text in verdict.failures]
        first = first or verdict.figures
    result = dataclasses.replace(result, evaluation=first)
    if failures:
        reasons = "\n".join(f"the gate is missed: {text}" for text in failures)
        raise MissedGateError(reasons, result)
    return result


def _with_original(exam: Exam, request: Request, *, on_window: OnWindow) -> Exam:
    """Run the original over the text of an exam, before any result is loaded.

    So the two are never in memory together.
    """
    opening = functools.partial(_open_original, request)
    reference = record(opening(), exam.ids, seqlen=exam.seqlen, on_window=on_window)
    if isinstance(reference, RecordedModel):
        return dataclasses.replace(exam, reference=reference, open_original=opening)
    return dataclasses.replace(exam, reference=reference, open_original=lambda: reference)


def _open_original(request: Request) -> Any:
    """Load the unquantized model in float32."""
    skeleton = request.skeleton
    if skeleton.folder is None:
        device = request.runtime.device
        return copy_with_weights(skeleton).to(device, torch.float32).eval()
    return load_any(skeleton.folder, device=str(request.runtime.device))


def _keep(folder: Path, gate: Gate, verdict: Verdict, original: str | None) -> None:
    """Write figures and verdict into a folder, and mark it where it does not pass."""
    measured = verdict.figures or EvalResult(float("nan"), 0)
    judged = {
        "bounds": str(gate),
        "passed": not verdict.failures,
        "failures": list(verdict.failures),
    }
    save_evaluation(
        folder, measured, text=gate.text, original=original, seqlen=gate.seqlen, gate=judged
    )
    mark_folder(folder, verdict.failures)
