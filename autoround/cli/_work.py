"""What the commands do once their options are understood; this imports torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from autoround import api
from autoround.checkpoints.convert import convert
from autoround.checkpoints.inspect import inspect_folder
from autoround.checkpoints.inspect_gguf import inspect_gguf
from autoround.cli._options import Invocation
from autoround.cli._quiet import quiet_libraries
from autoround.data.holdout import check_text
from autoround.errors import AutoRoundError, OutputError
from autoround.evaluate.compare import compare
from autoround.evaluate.generate import generate
from autoround.mixed_precision.budget import predicted_kl
from autoround.mixed_precision.search import ChosenAllocation
from autoround.model.embedded import embedded_model
from autoround.model.locate import gguf_file, locate_model
from autoround.recipe.schema import Recipe
from autoround.report.allocation import allocation_lines, uniform_points
from autoround.report.conversion import lines as convert_lines
from autoround.report.curve import Point, curve_svg
from autoround.report.inspection import as_dict, lines
from autoround.report.plan import layer_lines, plan_lines
from autoround.report.progress import Progress
from autoround.resume.journal import blocks_in
from autoround.resume.policy import OtherRunError
from autoround.storage.durable import write_text
from autoround.storage.json_text import to_json
from autoround.types import Destination, EvalResult, RunResult


@dataclass(frozen=True)
class After:
    """What to do with a finished result."""

    evaluate: bool
    text: Path | None
    prompt: str | None


@dataclass(frozen=True)
class Shown:
    """How a plan is printed."""

    layers: bool = False
    as_json: bool = False


@dataclass(frozen=True)
class Written:
    """Files that an allocation is written to, as a recipe and as a plot; and a folder for work."""

    recipe: Path | None = None
    plot: Path | None = None
    work_dir: Path | None = None


@contextmanager
def hinting(place: Destination, invocation: Invocation) -> Iterator[None]:
    """Note how to go on where a run ends before it is done."""
    try:
        yield
    except (KeyboardInterrupt, AutoRoundError) as error:
        done = blocks_in(place.folder)
        if done and not isinstance(error, OtherRunError):
            noun = "block is" if done == 1 else "blocks are"
            invocation.hint = f"{done} finished {noun} kept; go on with: {invocation.to_resume()}"
        raise


def default_output(model: str | None, recipe: Recipe) -> Path:
    """Return a folder name that says what it holds."""
    name = "smollm2-135m" if model is None else Path(model).name
    scheme = recipe.scheme.as_scheme()
    group = {-1: "channel", 0: "tensor"}.get(scheme.group_size, f"g{scheme.group_size}")
    own = f"-w{scheme.bits}{group}{'' if scheme.sym else '-asym'}{'-mixed' * bool(recipe.layers)}"
    return Path("quantized") / f"{name}{own}"


def show_plan(
    model: str | None,
    recipe: Recipe,
    *,
    device: str,
    max_memory: int | None,
    shown: Shown = Shown(),
) -> None:
    """Print a plan and its cost."""
    with quiet_libraries():
        plan, estimate = api.plan(model, recipe, device=device, max_memory=max_memory)
    if shown.as_json:
        found = {"plan": dataclasses.asdict(plan), "estimate": dataclasses.asdict(estimate)}
        typer.echo(to_json(found, indent=1))
        return
    for line in plan_lines(plan, estimate) + (layer_lines(plan) if shown.layers else []):
        typer.echo(line)


def allocate_and_report(
    model: str | None, recipe: Recipe, *, device: str, written: Written, layers: bool
) -> None:
    """Find bits under a budget, and show and write what comes of it."""
    for wanted in filter(None, (written.recipe, written.plot)):
        if wanted.is_dir() or not wanted.absolute().parent.is_dir():
            raise OutputError(f"{wanted} cannot be written: name a file in a folder that exists")
    with quiet_libraries():
        sink = Progress(Console(highlight=False, stderr=True))
        by_hand, found, scores = api.allocate(
            model, recipe, device=device, work_dir=written.work_dir, sink=sink
        )
    for line in allocation_lines(found, scores, layers=layers):
        typer.echo(line)
    texts = {written.recipe: by_hand.to_yaml(), written.plot: _drawing(found)}
    for path, text in texts.items():
        if path is not None:
            write_text(path, text)
            typer.echo(f"written      {path}")


def _drawing(found: ChosenAllocation) -> str:
    """Draw size against predicted loss: the best allocations, this one, and uniform ones."""
    corners = [Point("", 8 * c.size / found.weights, c.loss) for c in found.corners]
    chosen = Point(f"chosen, {found.bits:.2f} bits", found.bits, found.loss)
    return curve_svg(corners, chosen=[chosen], others=[Point(*p) for p in uniform_points(found)])


def quantize_and_report(
    model: str | None, recipe: Recipe, *, place: Destination, device: str, after: After
) -> RunResult:
    """Quantize, show progress, and do what is to follow with the written result."""
    with quiet_libraries():
        if after.evaluate and after.text is not None:
            # A mistake in its name is better told now than when the tuning is done.
            check_text(after.text)
        sink = Progress(Console(highlight=False))
        result = api.quantize(model, recipe, output_dir=place, device=device, sink=sink)
        output = place.folder
        original = embedded_model() if model is None else Path(model)
        if after.evaluate:
            typer.echo("eval: reloading the result and the original")
            scores = compare(
                output,
                str(original),
                text=after.text,
                seqlen=recipe.evaluation.seqlen,
                max_tokens=recipe.evaluation.max_tokens,
                device=device,
            )
            result = dataclasses.replace(result, evaluation=scores)
            for line in evaluation_lines(scores) + predicted_lines(output, scores):
                typer.echo(line)
        if after.prompt is not None:
            text = generate(output, after.prompt, max_new_tokens=32, device=device)
            typer.echo(f"generated from the reloaded result: {after.prompt}{text}")
    return result


def evaluate(
    model: str,
    original: str | None,
    *,
    text: Path | None,
    seqlen: int,
    max_tokens: int,
    device: str,
) -> EvalResult:
    """Score a model, with the libraries' own output silenced."""
    with quiet_libraries():
        return compare(
            model, original, text=text, seqlen=seqlen, max_tokens=max_tokens, device=device
        )


def inspection_lines(model: str, *, layers: bool, as_json: bool) -> list[str]:
    """Inspect a model folder; return the result as lines of text or one of JSON."""
    path = Path(model)
    if not (path.is_file() and path.suffix == ".gguf"):
        folder = locate_model(model)
        file = gguf_file(folder)
        path = folder if file is None else folder / file
    found = inspect_gguf(path) if path.suffix == ".gguf" else inspect_folder(path)
    return [to_json(as_dict(found))] if as_json else lines(found, layers=layers)


def conversion_lines(model: str, output: Path, *, to: str, lossy: bool) -> list[str]:
    """Convert a quantized model; return what was done as lines of text."""
    formats = tuple(dict.fromkeys(name.strip() for name in to.split(",")))
    with quiet_libraries():
        return convert_lines(convert(model, output, formats=formats, allow_lossy=lossy))


def evaluation_lines(result: EvalResult) -> list[str]:
    """Return scores as lines of text."""
    if result.reference_perplexity is None:
        return [f"perplexity {result.perplexity:.3f} over {result.tokens} tokens"]
    change = 100 * (result.perplexity / result.reference_perplexity - 1)
    return [
        f"perplexity of the original   {result.reference_perplexity:.3f}",
        f"perplexity of the quantized  {result.perplexity:.3f}  ({change:+.1f} %)",
        f"KL divergence                {result.kl:.4f} nats per token",
        f"same first choice            {100 * (result.top1_agreement or 0):.1f} %",
        f"tokens                       {result.tokens}",
    ]


def predicted_lines(folder: str | Path, result: EvalResult) -> list[str]:
    """Return what an allocation was predicted to cost beside what it did, where one was made."""
    predicted = predicted_kl(Path(folder))
    if predicted is None or result.kl is None:
        return []
    return [
        f"predicted KL                 {predicted:.4f} nats per token for searched scales; the "
        f"real one is {result.kl / predicted:.2f} times that"
    ]


def json_lines(result: EvalResult) -> list[str]:
    """Return scores as one line of JSON."""
    return [to_json(dataclasses.asdict(result))]
