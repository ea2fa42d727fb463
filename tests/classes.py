"""Every decoder class of the installed transformers, narrow and with random weights.

Each goes through what a user's model goes through, in a process of its own: saved, planned, tuned
at 4 bits, written, loaded. What one comes to is either *works*, or a refusal in one sentence.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import resource
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from autoround import api
from autoround.errors import AutoRoundError
from autoround.inference.load import load
from autoround.model.blocks import decoder_blocks
from autoround.model.build import build_empty, build_from
from autoround.model.probe.narrow import layer_count, narrow_config
from autoround.model.probe.small_copy import make_small_copy, signature
from autoround.planning.code_roles import unasked_share, why_partial
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import Recipe
from autoround.types import Plan

#: What configs lack by default that every published model has.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 4, "clip_qkv": 8.0}},
    "nemotron": {"num_key_value_heads": 8},
    **{name: {"head_dim": 128} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "deepseek_v2": {"num_experts_per_tok": 4, "topk_method": "greedy"},
    "reformer": {"is_decoder": True},
    "xmod": {"default_language": "en_XX"},
}
#: Layers of a class's model at first, of which those are left that show every kind of block.
LAYERS = 12
LENGTH, SAMPLES = 16, 6
#: Largest difference between logits of packed and of dequantized weights, relative to the largest.
LOGITS = 1e-3
#: Of the processor, that a class may take.
SECONDS = 900


@dataclass(frozen=True)
class Outcome:
    """What a class came to.

    state: ``works``, ``rounds`` (tuning is refused, rounding without data works), ``refused``,
    ``not made`` (transformers makes no small model of its default config), or ``fault``. reason:
    of all but the first. packed: share of the blocks' weights that are quantized. kept: reasons,
    by their number of layers.
    """

    name: str
    state: str
    reason: str = ""
    packed: float = 0.0
    kept: Mapping[str, int] = field(default_factory=dict)


def class_names() -> list[str]:
    """Return the model types whose class transformers calls a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    return list(NAMES)


def make_narrow(name: str) -> Any:
    """Make a small model of a type with random weights in bfloat16.

    Raises:
        Exception: transformers makes none of the type's own default config.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model(name, **OPTIONS.get(name, {}))
    layers = min(layer_count(config) or LAYERS, LAYERS)
    try:
        model = build_from(narrow_config(config, layers, widths=False))
    except Exception:
        model = build_from(config)
    kinds = Counter(signature(model.get_submodule(b)) for b in decoder_blocks(model))
    made = make_small_copy(type(model), config, kinds)
    if isinstance(made, str):
        raise ValueError(made)
    return made.model


def recipe_for(*, tuned: bool) -> Recipe:
    """Return a recipe of four bits in groups of 32: two tuning steps, or none and no data."""
    values = {"format": "auto_round,fake"}
    words = [
        *("scheme.bits=4", "scheme.group_size=32", "tuning.compute_dtype=float32"),
        *(f"calibration.nsamples={SAMPLES}", f"calibration.seqlen={LENGTH}"),
        *("tuning.batch_size=2", f"output.format={values['format']}", "output.dtype=float32"),
    ]
    if tuned:
        return load_recipe("light", overrides=[*words, "tuning.iters=2"])
    return load_recipe("rtn", overrides=words)


def go_through(name: str) -> Outcome:
    """Take a class through plan, quantize and load."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = make_narrow(name)
            source = Path(folder) / "source"
            model.save_pretrained(source)
        except Exception as error:
            return Outcome(name, "not made", _line(error))
        try:
            return _quantized(name, source, Path(folder))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            return Outcome(name, "fault", f"{type(error).__name__}: {_line(error)} ({where.name})")


def _quantized(name: str, source: Path, folder: Path) -> Outcome:
    tuned, reason = _agreed(source, folder / "tuned", recipe_for(tuned=True))
    if tuned is not None:
        return _checked(name, "works", "", tuned, folder / "tuned")
    rounded, second = _agreed(source, folder / "rounded", recipe_for(tuned=False))
    if rounded is None:
        return Outcome(name, "refused", second)
    return _checked(name, "rounds", reason, rounded, folder / "rounded")


def _agreed(source: Path, out: Path, recipe: Recipe) -> tuple[Plan | None, str]:
    """Plan and quantize; what stops one must stop the other.

    Returns:
        The plan; or None, and the refusal.
    """
    ids = _tokens(SAMPLES, seed=0)
    try:
        planned, _ = api.plan(source, recipe, device="cpu", data=ids)
    except AutoRoundError as error:
        refused = _line(error)
        try:
            api.quantize(source, recipe, output_dir=out, device="cpu", data=ids)
        except AutoRoundError:
            return None, refused
        raise AssertionError(f"plan refuses and quantize does not: {refused}") from error
    reason = why_partial(planned)
    if reason:
        try:
            api.quantize(source, recipe, output_dir=out, device="cpu", data=ids)
        except AutoRoundError:
            return None, reason
        raise AssertionError(f"quantize does what the plan calls partial: {reason}")
    api.quantize(source, recipe, output_dir=out, device="cpu", data=ids)
    return planned, ""


def _checked(name: str, state: str, reason: str, plan: Plan, out: Path) -> Outcome:
    """Load what was written, packed and dequantized, compare the logits, and save it again."""
    ids = _tokens(2, seed=3)
    packed = load(out / "auto_round", device="cpu", backend="torch", dtype=torch.float32)
    own_class: Any = type(build_empty(out / "fake"))
    plain = own_class.from_pretrained(out / "fake", dtype=torch.float32).eval()
    with torch.no_grad():
        one = packed(input_ids=ids, use_cache=False).logits
        other = plain(input_ids=ids, use_cache=False).logits
    difference = float((one - other).abs().max() / other.abs().max().clamp(min=1e-9))
    if not difference <= LOGITS:
        return Outcome(name, "fault", f"packed logits differ by {difference:.1e}")
    layers = [layer for block in plan.blocks for layer in block.layers]
    kept = Counter(x.reason for x in layers if x.scheme is None)
    kept.update(x.reason for x in plan.kept_tensors)
    return Outcome(name, state, reason, 1 - unasked_share(plan), dict(kept))


def _tokens(rows: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(8, 250, (rows, LENGTH), generator=generator)


def _line(error: Exception) -> str:
    """Return an error in one line, without the names of temporary folders."""
    text = re.sub(r"/tmp/\S+?/(source|tuned|rounded)\S*", "the model", " ".join(str(error).split()))
    return text[:240] or repr(error)


def _in_process(name: str) -> str:
    import logging

    def stop(_signal: int, _frame: object) -> NoReturn:
        raise TimeoutError(f"it took more than {SECONDS} seconds of the processor")

    # Not by the clock: other work beside must not change what comes of a class.
    signal.signal(signal.SIGXCPU, stop)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    return json.dumps(asdict(go_through(name)))


def go_through_all(names: Sequence[str], *, workers: int = 2) -> list[Outcome]:
    """Take classes through, each in a process of its own.

    Args:
        names: model types.
        workers: processes at a time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transformers", "autoround.api"])
    outcomes = []
    with context.Pool(workers, maxtasksperchild=1) as pool:
        pending = {name: pool.apply_async(_in_process, (name,)) for name in names}
        for name, result in pending.items():
            try:
                outcomes.append(Outcome(**json.loads(result.get())))
            except Exception as error:
                outcomes.append(Outcome(name, "fault", f"{type(error).__name__}: {_line(error)}"))
            print(outcomes[-1], flush=True)
    return outcomes
