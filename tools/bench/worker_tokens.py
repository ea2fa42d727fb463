"""Tokenize the texts of a bench once, for every row alike."""

from __future__ import annotations

import hashlib
import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import worker


def windows(count: int, length: int, *, total: int, seed: int) -> list[int]:
    """Return where samples start in a text: spread over it, shuffled, both by the seed.

    The text is cut into as many stretches as there are samples, and each gives one.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    last = total - length
    if last < 0:
        raise SystemExit(f"the calibration part has {total} tokens; a sample needs {length}")
    edges = np.linspace(0, last + 1, count + 1)
    starts = np.floor(rng.uniform(edges[:-1], edges[1:])).astype(int).clip(0, last)
    rng.shuffle(starts)
    return [int(start) for start in starts]


def fresh_windows(
    starts: list[int], count: int, length: int, *, total: int, seed: int
) -> list[int]:
    """Return where samples start that share no token with those at ``starts``: in their gaps.

    Raises:
        SystemExit: the gaps have no room for so many.
    """
    import numpy as np

    taken = [-length, *sorted(starts), total]
    room = [
        position
        for before, after in itertools.pairwise(taken)
        for position in range(before + length, after - length + 1, length)
    ]
    if len(room) < count:
        raise SystemExit(f"the text has room for {len(room)} fresh samples, and {count} are asked")
    np.random.default_rng([seed, 1]).shuffle(room)
    return room[:count]


def saved(folder: Path, name: str, ids: Any) -> dict[str, str]:
    """Save token ids under a name that tells them apart; returns their file and mark."""
    import numpy as np

    array = np.asarray(ids, dtype=np.int64)
    mark = hashlib.sha256(array.tobytes()).hexdigest()[:8]
    path = folder / f"{name}-{mark}.npy"
    np.save(path, array)
    return {"path": str(path), "mark": mark}


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Save the samples of each seed and the evaluation tokens; returns their files and marks.

    The first 60 % of the text's lines are for calibration, the rest for evaluation; a text of
    another kind (.jsonl with question and answer) is for evaluation only. Where the tokenizer
    begins a text with a token of its own, every sample and every window begins with it.
    """
    import numpy as np
    from transformers import AutoTokenizer

    folder = Path(job["work"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    first = [tokenizer.bos_token_id]
    begins = tokenizer("a")["input_ids"][:1] == first

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer(text)["input_ids"]
        return found[1:] if begins else found

    def windowed(ids: list[int]) -> list[int]:
        if not begins:
            return ids
        step = job["window"] - 1
        parts = (ids[start : start + step] for start in range(0, len(ids), step))
        return [token for part in parts for token in first + part][: job["eval_tokens"]]

    save = partial(saved, folder)
    lines = Path(job["text"]).read_text("utf-8").splitlines(keepends=True)
    cut = len(lines) * 6 // 10
    ids = np.array(encode("".join(lines[:cut])), dtype=np.int64)

    def cut_samples(starts: list[int]) -> Any:
        rows = np.stack([ids[start : start + job["seqlen"]] for start in starts])
        if begins:
            rows[:, 0] = first[0]
        return rows

    found: dict[str, Any] = {"calibration": {}, "fresh": {}, "calibration_tokens": len(ids)}
    for seed in job["seeds"]:
        starts = windows(job["nsamples"], job["seqlen"], total=len(ids), seed=seed)
        found["calibration"][str(seed)] = save(f"calibration-s{seed}", cut_samples(starts))
        if job.get("fresh"):
            size = {"total": len(ids), "seed": seed}
            more = fresh_windows(starts, job["fresh"], job["seqlen"], **size)
            found["fresh"][str(seed)] = save(f"fresh-s{seed}", cut_samples(more))
    rest = encode("".join(lines[cut:]))[: job["eval_tokens"]]
    found["evaluation"] = save("evaluation", windowed(rest))
    if job.get("domain"):
        records = [json.loads(line) for line in Path(job["domain"]).read_text("utf-8").splitlines()]
        text = "\n\n".join(f"Question: {r['question']}\nAnswer: {r['answer']}" for r in records)
        found["domain"] = save("domain", windowed(encode(text)[-job["eval_tokens"] :]))
    return found


if __name__ == "__main__":
    worker.run(work)
