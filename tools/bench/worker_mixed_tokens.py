"""Tokenize the embedded text for ``mixed.py``: samples that are the same as ids and as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import worker
from worker_tokens import saved


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Save calibration ids, the same as text (for a peer that wants text), and evaluation ids.

    A sample begins where a paragraph does, and only samples whose text gives the same ids again
    are taken, so that no method sees other tokens.
    """
    import numpy as np
    from transformers import AutoTokenizer

    from autoround.data.embedded import embedded_split

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    count, length = job["nsamples"], job["seqlen"]
    calibration, evaluation = embedded_split()
    paragraphs = calibration.split("\n\n")
    order = np.random.default_rng(job["seed"]).permutation(len(paragraphs))
    rows, texts = [], []
    for start in order:
        text = "\n\n".join(paragraphs[start : start + 60]).strip()
        ids = tokenizer(text)["input_ids"][:length]
        back = str(tokenizer.decode(ids))
        if len(ids) < length or back != back.strip() or tokenizer(back)["input_ids"] != ids:
            continue  # readers of text may strip it, and drop samples that got too short
        rows.append(ids)
        texts.append(back)
        if len(rows) == count:
            break
    if len(rows) < count:
        raise SystemExit(f"the text gives {len(rows)} samples of {length} tokens, not {count}")
    folder = Path(job["work"])
    place = folder / "mixed-calibration.jsonl"
    place.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    scored = tokenizer(evaluation)["input_ids"][: job["eval_tokens"]]
    return {
        "calibration": saved(folder, "mixed-calibration", rows),
        "evaluation": saved(folder, "mixed-evaluation", scored),
        "text": str(place),
    }


if __name__ == "__main__":
    worker.run(work)
