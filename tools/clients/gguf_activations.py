"""Tell apart what a q8_0 file holds and what llama.cpp's 8-bit activations make of it.

    python tools/clients/gguf_activations.py --work DIR --python VENV/bin/python [--only NAME]

Tiny random models are written in q8_0. What llama.cpp makes of the file is compared with the
file's own weights in float32, and so is what it makes of the very same weights in a float32 file.
Prints the two KL divergences in nats; exits with 1 where the second exceeds 3e-4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gguf_archs import LIMIT, divergence, small_tokenizer, tiny_model, write_plain
from gguf_cases import CASES

#: Those whose logits or attention are scaled, beside a plain one.
NAMES = ("llama", "gemma2", "granite, multipliers")


def main() -> None:
    """Run the models."""
    import autoround
    from autoround.inference.load_gguf import load_gguf
    from autoround.recipe.load import load_recipe

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--only", choices=NAMES)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe("rtn", values={"output.format": "gguf:q8_0"})
    print("| model | q8_0 file | its weights as float32 |\n|---|---|---|")
    failed = False
    for case in CASES:
        if case.name not in NAMES or args.only not in (None, case.name):
            continue
        out = args.work / case.name.replace(", ", "-")
        autoround.quantize(
            tiny_model(case), recipe, output_dir=out, tokenizer=small_tokenizer(), device="cpu"
        )
        model = load_gguf(out, device="cpu")
        rounded = divergence(model, next(out.glob("*.gguf")), work=args.work, python=args.python)
        write_plain(model, args.work / "plain.gguf")
        plain = divergence(model, args.work / "plain.gguf", work=args.work, python=args.python)
        failed = failed or plain > LIMIT
        print(f"| {case.name} | {rounded:.6f} | {plain:.6f} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
