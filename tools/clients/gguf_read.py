"""Load a GGUF file with llama.cpp and save its logits; runs in the environment of llama-cpp-python.

    python tools/clients/gguf_read.py --model FILE.gguf --tokens ids.npy --out logits.npy

Needs nothing of this project, so that the client shares no code with it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    """Save logits [sequences, tokens, vocabulary] in float32, and print a text and token ids."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--texts", type=Path, help="JSON list of texts to be cut into tokens")
    args = parser.parse_args()
    import llama_cpp
    import llama_cpp.llama_cpp as library

    # Weights repacked for AMX end in a crash where the system does not let programs use it.
    defaults = library.llama_model_default_params()
    defaults.use_extra_bufts = False
    library.llama_model_default_params = lambda: defaults
    ids = np.load(args.tokens)
    model = llama_cpp.Llama(
        args.model,
        n_ctx=ids.shape[1] + 16,
        n_batch=ids.shape[1],
        logits_all=True,
        verbose=False,
        # Half a precision less in the cache would be counted against the file.
        type_k=0,
        type_v=0,
    )
    rows = []
    for row in ids:
        model.reset()
        model.eval(row.tolist())
        rows.append(np.array(model.scores[: len(row)], dtype=np.float32))
    np.save(args.out, np.stack(rows))
    found: dict[str, object] = {"text": "", "ids": []}
    if args.texts is not None:
        texts = json.loads(args.texts.read_text(encoding="utf-8"))
        cut = [model.tokenize(t.encode(), add_bos=False, special=True) for t in texts]
        found["ids"] = cut
        prompt = "The capital of France is"
        done = model.create_completion(prompt, max_tokens=12, temperature=0.0)
        found["text"] = prompt + str(done["choices"][0]["text"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
