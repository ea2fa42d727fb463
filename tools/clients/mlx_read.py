"""Load a folder with mlx-lm on its CPU build and save its logits; runs in its environment.

    python tools/clients/mlx_read.py --model DIR --tokens ids.npy --out logits.npy

Needs nothing of this project, so that the client shares no code with it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    """Save logits [sequences, tokens, vocabulary] in float32, and print a generated text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    import mlx.core as mx
    from mlx_lm import generate, load

    model, tokenizer = load(args.model)[:2]
    # Its products of float16 on a CPU are so coarse that they hide what was read.
    model.set_dtype(mx.float32)
    rows = [np.array(model(mx.array(row[None])).astype(mx.float32)) for row in np.load(args.tokens)]
    np.save(args.out, np.concatenate(rows))
    prompt = "The capital of France is"
    text = prompt + generate(model, tokenizer, prompt=prompt, max_tokens=6)
    print(json.dumps({"text": text}))


if __name__ == "__main__":
    main()
