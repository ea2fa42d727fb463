"""Do predicted losses put models in the order of their real ones? Random allocations say.

    python tools/bench/mixed_correlate.py --model DIR --work DIR --out docs/mixed-rows.json

Each layer is rounded to each option once, by searched scales (as ``uniform`` runs of the package
do, whose grids do not depend on other layers), and random allocations are put together of that.
Two kinds: *varied* draws how likely each option is anew for every allocation, so sizes differ
widely; *alike* takes each option as often, so all have about the same size and only the places
differ, which is harder. Scores are those that ``mixed.py`` left in --work, or made anew.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
import store
import torch
from bench import Bench
from mixed import parser as mixed_parser
from mixed import settings_of
from mixed_recipes import shared

from autoround import api, request
from autoround.core.rounding import dense_weight
from autoround.evaluate.models import load_any
from autoround.events import ignore
from autoround.pipeline import quantize_pass
from autoround.preparation import open_session, prepare
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import Recipe
from autoround.session.block_output import BlockOutput
from autoround.types import QuantizedTensor

Weights = dict[str, torch.Tensor]
Allocation = dict[str, str]


def main() -> None:
    """Measure both kinds and keep the figures."""
    args = mixed_parser().parse_args()
    torch.set_num_threads(args.threads)
    work = args.work.resolve()
    bench = Bench(settings_of(args), args.out, work)
    job = {"model": str(args.model), "work": str(work), "eval_tokens": args.eval_tokens}
    job |= {"nsamples": args.nsamples, "seqlen": args.seqlen, "seed": 0}
    tokens = bench.call("worker_mixed_tokens.py", job)
    ids = torch.from_numpy(np.load(tokens["calibration"]["path"]))
    words = [f"W{bits}" for bits in args.options.split(",")]
    scores = work / f"scores-fisher-{tokens['calibration']['mark']}.json"
    losses = scored(args, words, ids, scores)
    options = {word: rounded(args, word, ids) for word in words}
    text = torch.from_numpy(np.load(tokens["evaluation"]["path"]))
    judge = Judge(args.model, text[: args.eval_tokens // 256 * 256].view(-1, 256))
    kinds = []
    rng = random.Random(0)
    for name, draw in (("varied", varied), ("alike", alike)):
        pairs = []
        for _ in range(COUNT):
            allocation = draw(list(losses), words, rng)
            predicted = sum(losses[layer][word] for layer, word in allocation.items())
            pairs.append((predicted, judge.divergence(allocation, options)))
            print(f"{name:8} predicted {pairs[-1][0]:.4f}  real {pairs[-1][1]:.4f}", flush=True)
        kinds.append(summary(name, pairs))
        print(kinds[-1], flush=True)
    with store.changing(args.out) as contents:
        key = f"{bench.settings.model_name} | {args.options} | {tokens['evaluation']['mark']}"
        contents.setdefault("correlation", {})[key] = {
            "count": COUNT,
            "tokens": int(judge.ids.numel()),
            "kinds": kinds,
        }


#: Allocations of each kind.
COUNT = 20


def recipe_of(args: argparse.Namespace, extra: list[str]) -> Recipe:
    """Return the recipe of searched scales alone, as the rows of ``mixed.py`` have it."""
    found: Recipe = load_recipe("default", overrides=[*shared(args), "tuning.iters=0", *extra])
    return found


def scored(
    args: argparse.Namespace, words: list[str], ids: torch.Tensor, place: Path
) -> dict[str, dict[str, float]]:
    """Return the losses of every layer by option."""
    extra = [
        "allocate.avg_bits=16",
        f"allocate.options=[{', '.join(words)}]",
        f"allocate.nsamples={args.nsamples}",
        f"allocate.scores={place}",
        "allocate.fused=false",
    ]
    _, found, _ = api.allocate(args.model, recipe_of(args, extra), data=ids)
    return {
        unit.name: dict(zip(words, own, strict=True))
        for unit, own in zip(found.groups, found.losses, strict=True)
    }


def rounded(args: argparse.Namespace, word: str, ids: torch.Tensor) -> Weights:
    """Return all layers in one option, dequantized."""
    recipe = recipe_of(args, [f"scheme.bits={word.removeprefix('W')}"])
    asked = request.make_request(args.model, recipe, data=ids)
    outputs: list[BlockOutput] = []
    session = open_session(prepare(asked, sink=ignore), sink=ignore)
    quantize_pass(session, outputs.append)
    return {
        name: dense_weight(layer).bfloat16()
        for output in outputs
        for name, layer in output.layers.items()
        if isinstance(layer, QuantizedTensor)
    }


class Judge:
    """Measures how far the model is from itself with other weights."""

    def __init__(self, model: Path, ids: torch.Tensor) -> None:
        self.ids = ids
        self.model = load_any(model)
        self.wanted = [self.logs(row).half() for row in ids]

    @torch.no_grad()
    def logs(self, row: torch.Tensor) -> torch.Tensor:
        """Return logarithms of the answers' chances."""
        logits: Any = self.model(input_ids=row[None], use_cache=False).logits[0, :-1]
        return torch.log_softmax(logits.float(), -1)

    def divergence(self, allocation: Allocation, options: dict[str, Weights]) -> float:
        """Return the mean divergence, in nats per token."""
        for layer, word in allocation.items():
            self.model.get_submodule(layer).weight.data.copy_(options[word][layer])
        total = 0.0
        for row, wanted in zip(self.ids, self.wanted, strict=True):
            p = wanted.float()
            total += float((p.exp() * (p - self.logs(row))).sum(-1).mean())
        return total / len(self.ids)


def varied(layers: list[str], words: list[str], rng: random.Random) -> Allocation:
    """Draw an allocation of a size that is random, too."""
    weights = [rng.random() ** 2 for _ in words]
    return dict(zip(layers, rng.choices(words, weights=weights, k=len(layers)), strict=True))


def alike(layers: list[str], words: list[str], rng: random.Random) -> Allocation:
    """Draw an allocation of about the same size as all others."""
    return dict(zip(layers, rng.choices(words, k=len(layers)), strict=True))


def summary(name: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the rank correlation, and how predicted and real compare."""
    predicted, real = np.array(pairs).T
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, real)]
    return {
        "name": name,
        "spearman": round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 3),
        "ratio": round(float(np.median(predicted / real)), 3),
        "real": [round(float(real.min()), 4), round(float(real.max()), 4)],
        "pairs": [[round(p, 5), round(r, 5)] for p, r in pairs],
    }


if __name__ == "__main__":
    main()
