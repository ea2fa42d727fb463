"""Load a quantized folder with one client and save its logits; runs in the client's environment.

    python tools/clients/read.py --client gptqmodel --model DIR --tokens ids.npy --out logits.npy

Needs nothing of this project, so that a client shares no code with it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch


def auto_round(folder: str) -> Any:
    """Load through transformers with auto-round's quantizer registered."""
    import auto_round  # noqa: F401 (its import registers the quantizer)

    return transformers(folder)


def auto_round_torch(folder: str) -> Any:
    """Load with auto-round's plain kernel, which unpacks weights and multiplies in 16 bits."""
    import auto_round  # noqa: F401 (its import registers the quantizer)
    from transformers import AutoModelForCausalLM, AutoRoundConfig

    config = AutoRoundConfig(backend="torch")
    return AutoModelForCausalLM.from_pretrained(
        folder, device_map="cpu", dtype=torch.float16, quantization_config=config
    )


def gptqmodel(folder: str) -> Any:
    """Load by GPTQModel with its plain torch kernel, which knows 16-bit floats only."""
    from gptqmodel import BACKEND, GPTQModel

    return GPTQModel.load(folder, backend=BACKEND.TORCH, device="cpu", dtype=torch.float16).model


def transformers(folder: str) -> Any:
    """Load by transformers alone, or with compressed-tensors where the config says so."""
    from transformers import AutoModelForCausalLM

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    own = config.get("quantization_config") or {}
    options: dict[str, Any] = {}
    if own.get("quant_method") == "compressed-tensors":
        from transformers import CompressedTensorsConfig

        groups = own["config_groups"].values()
        asymmetric = any(not group["weights"]["symmetric"] for group in groups)
        options["quantization_config"] = CompressedTensorsConfig(dequantize=asymmetric)
    return AutoModelForCausalLM.from_pretrained(
        folder, device_map="cpu", dtype=torch.float32, **options
    )


CLIENTS = {
    "auto-round": auto_round,
    "auto-round-torch": auto_round_torch,
    "gptqmodel": gptqmodel,
    "compressed-tensors": transformers,
    "transformers": transformers,
}


def main() -> None:
    """Save logits [sequences, tokens, vocabulary] in float32, and print a generated text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=CLIENTS, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    from transformers import AutoTokenizer

    model = CLIENTS[args.client](args.model)
    ids = torch.from_numpy(np.load(args.tokens))
    with torch.no_grad():
        logits = torch.cat([model(input_ids=row[None]).logits.float().cpu() for row in ids])
        np.save(args.out, logits.numpy())
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        prompt = tokenizer("The capital of France is", return_tensors="pt")
        done = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    print(json.dumps({"text": tokenizer.decode(done[0], skip_special_tokens=True)}))


if __name__ == "__main__":
    main()
