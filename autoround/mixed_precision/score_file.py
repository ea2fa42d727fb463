"""Scores of layers in a file: what each costs in each option, and of which model and data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoround.errors import OutputError, RecipeError
from autoround.formats.registry import lowest_zero
from autoround.recipe.allocate import AllocateOptions
from autoround.resume.fingerprint import differences, model_digests, tokens_digest
from autoround.session.session import Session
from autoround.storage.checksum import sum_of
from autoround.storage.durable import write_text
from autoround.storage.files import make_folder
from autoround.storage.json_text import to_json
from autoround.types import Scheme

#: Number of this layout of the file, and of the way scores are found.
VERSION = 1
#: Bytes above which a file holds no scores.
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Scores:
    """What every part of a model costs in each of its options.

    identity: of model, data and settings. losses: nats per token by part and by the words for a
    scheme; NaN where no calibration token came to the part. seconds, peak_bytes: of the scoring.
    """

    identity: dict[str, Any]
    losses: dict[str, dict[str, float]]
    tokens: int
    seconds: float
    peak_bytes: int

    def loss(self, part: str, scheme: Scheme | None) -> float:
        """Return the loss of a part in an option; nothing is lost in 16 bit.

        Raises:
            RecipeError: it was not scored.
        """
        if scheme is None:
            return 0.0
        try:
            return self.losses[part][str(scheme)]
        except KeyError:
            known = sorted({name for own in self.losses.values() for name in own})
            raise RecipeError(
                f"the scores hold nothing of {part} in {scheme}; they were taken for "
                f"{', '.join(known)}: score again, into another file or after removing this one"
            ) from None


def scores_identity(options: AllocateOptions, session: Session) -> dict[str, Any]:
    """Return what scores depend on; values are JSON.

    Args:
        options: how layers are scored.
        session: the pass; it has tokens.
    """
    assert session.tokens is not None
    plan, skeleton = session.plan, session.skeleton
    ends = {plan.blocks[0].name, plan.blocks[-1].name}
    return {
        "scores": VERSION,
        "method": options.method,
        **({"iters": options.iters} if options.method == "measured" else {}),
        "scales from": plan.tuning.init_scale,
        "lowest zero point": lowest_zero(plan.outputs),
        "calibration tokens": tokens_digest(session.tokens),
        "model files": {
            **model_digests(skeleton),
            # To read all blocks only to compare them would take as long as to score a small model.
            **{
                name: f"{sum_of(skeleton.read(skeleton.names_under(name))):016x}"
                for name in sorted(ends)
            },
        },
        "seed": plan.tuning.seed,
    }


def save_scores(path: Path, scores: Scores) -> None:
    """Write scores, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    text = to_json(
        {
            "identity": scores.identity,
            "tokens": scores.tokens,
            "seconds": round(scores.seconds, 2),
            "peak_bytes": scores.peak_bytes,
            "losses": scores.losses,
        },
        indent=1,
    )
    try:
        make_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
    write_text(path, text + "\n")


def load_scores(path: Path, *, identity: Mapping[str, Any]) -> Scores:
    """Read scores, if they are of this model, these data and settings.

    Raises:
        RecipeError: the file holds no scores, or others.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path} is larger than {MAX_BYTES} bytes: no file of scores")
        found = json.loads(path.read_text(encoding="utf-8"))
        losses = {str(part): _losses(own) for part, own in found["losses"].items()}
        scores = Scores(
            dict(found["identity"]),
            losses,
            int(found["tokens"]),
            float(found["seconds"]),
            int(found["peak_bytes"]),
        )
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    except (
        *(ValueError, KeyError, TypeError, AttributeError),
        *(OverflowError, RecursionError),
    ) as error:
        raise RecipeError(f"{path} is no file of scores ({error!r})") from error
    other = differences(scores.identity, json.loads(json.dumps(identity)))
    if other:
        raise RecipeError(
            f"{path} holds scores of something else:\n"
            + "\n".join(f"  {line}" for line in other)
            + "\nname another file in allocate.scores, or remove this one"
        )
    return scores


def _losses(own: Mapping[str, Any]) -> dict[str, float]:
    found = {str(name): math.nan if x is None else float(x) for name, x in own.items()}
    if any(x < 0 or math.isinf(x) for x in found.values()):
        raise ValueError("a loss below zero, or infinite")
    return found
