"""Run a GGUF file with the server of xllamacpp; runs in the environment of that package.

    python tools/clients/gguf_server.py --model FILE.gguf --tokens ids.npy --out logprobs.npy

Needs nothing of this project, so that the client shares no code with it. Only what the server
offers everybody is used: completions with ``n_probs``, ``/tokenize`` and ``/props``.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Save log-probabilities [rows, positions, vocabulary], and print tokens and templates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=Path, help="int64 [rows, tokens]")
    parser.add_argument("--positions", default="", help="Comma-separated; default: all.")
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--texts", type=Path, help="JSON list of texts to be cut into tokens")
    args = parser.parse_args()
    ids = np.zeros((0, 1), np.int64) if args.tokens is None else np.load(args.tokens)
    server = start(args.model, context=ids.shape[1] + 16)
    if args.out is not None:
        positions = [int(p) for p in args.positions.split(",") if p] or range(ids.shape[1])
        rows = [[answer(server, row[: p + 1], args.vocabulary) for p in positions] for row in ids]
        np.save(args.out, np.array(rows, dtype=np.float32))
    printed: dict[str, Any] = {}
    if args.texts is not None:
        texts = json.loads(args.texts.read_text(encoding="utf-8"))
        printed["ids"] = [tokenize(server, text) for text in texts]
        props = request(server, "/props")
        printed["templates"] = {k: v for k, v in props.items() if k.startswith("chat_template")}
    print(json.dumps(printed))


def start(model: str, *, context: int) -> Any:
    """Load a file; llama.cpp ends the process with a message where it cannot."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = params.n_batch = params.n_ubatch = max(context, 64)
    params.n_parallel = 1
    params.warmup = False
    params.fit_params = False
    params.cpuparams.n_threads = 1
    # Half a precision less in the cache would be counted against the file.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    # Weights repacked for AMX end in a crash where the system does not let programs use it.
    params.no_extra_bufts = True
    params.port = 0
    params.verbosity = 1
    return xllamacpp.Server(params)


def answer(server: Any, tokens: Any, vocabulary: int) -> list[float]:
    """Return the log-probability of every token after some tokens, by token id."""
    body = {
        "prompt": [int(i) for i in tokens],
        "n_predict": 1,
        "n_probs": vocabulary,
        "temperature": 1.0,
        "cache_prompt": False,
        "seed": 0,
        # Nothing is listed where the token drawn is an end or half a letter; what is listed does
        # not know of the bias.
        "logit_bias": [[tokenize(server, "a")[0], 1000.0]],
    }
    row = [float("nan")] * vocabulary
    done = request(server, "/completion", body)
    for entry in done["completion_probabilities"][0]["top_logprobs"]:
        row[entry["id"]] = entry["logprob"]
    return row


def tokenize(server: Any, text: str) -> list[int]:
    """Cut a text into tokens, without those that are added in front."""
    body = {"content": text, "add_special": False, "parse_special": True}
    return [int(i) for i in request(server, "/tokenize", body)["tokens"]]


def request(server: Any, path: str, body: Any = None) -> Any:
    """Ask the server by HTTP."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(server.listening_address + path, data, headers)
    with urllib.request.urlopen(asked, timeout=60) as reply:
        return json.loads(reply.read())


if __name__ == "__main__":
    main()
