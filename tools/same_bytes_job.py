"""What same_bytes.py runs in a process of its own, with one tree or the other on the path.

same_bytes_job.py models FOLDER    make the tiny models there
same_bytes_job.py run JOB.json     quantize once, as the file says
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VOCAB = 128
#: Today's recipe keys, and what they were called before.
OLDER_KEYS = {
    "tuning.init_rounding": "tuning.start",
    "tuning.init_scale": "tuning.init",
    "tuning.num_validations": "tuning.checks",
    "tuning.validation_samples": "tuning.check_samples",
    "tuning.tune_minmax": "tuning.clips",
    "end_to_end.tune_codes": "distill.codes",
    "end_to_end.steps": "distill.steps",
    "end_to_end.batch_size": "distill.batch_size",
    "end_to_end.lr": "distill.lr",
}
#: Values that were called otherwise under an older key.
OLDER_VALUES = {("tuning.start", "gptq"): "compensated"}

COMMON: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
SIDES = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 32,
}
#: Name of a tiny model -> transformers' name of its config, and the options of that.
MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", COMMON),
    "wide": ("llama", {**COMMON, "hidden_size": 256, "intermediate_size": 512}),
    "mixtral": (
        "mixtral",
        {**COMMON, "intermediate_size": 64, "num_local_experts": 32, "num_experts_per_tok": 2},
    ),
    "gpt2": ("gpt2", {**SIDES, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "llava": (
        "llava",
        {
            "text_config": {"model_type": "llama", **COMMON},
            "vision_config": VISION,
            "image_token_index": 100,
            "tie_word_embeddings": False,
        },
    ),
}


def make_models(folder: Path) -> None:
    """Save every tiny model, with weights that are the same at each call."""
    import torch
    import transformers

    for seed, (name, (model_type, options)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        config = transformers.AutoConfig.for_model(model_type, **options)
        vision = "vision_config" in options
        auto = "AutoModelForImageTextToText" if vision else "AutoModelForCausalLM"
        model = getattr(transformers, auto).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                # Norms start as ones and biases as zeros, which would hide a mix-up of them.
                parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(folder / name)


def quantize(job: Mapping[str, Any]) -> None:
    """Run one job with the tree that is on the path.

    job: tree, model (a folder or None), recipe, values, samples, length, vocab, seed, device, out.
    """
    import torch

    import autoround
    from autoround.api import quantize
    from autoround.recipe.load import load_recipe

    at = Path(autoround.__file__).resolve()
    if not at.is_relative_to(Path(job["tree"]).resolve()):
        raise SystemExit(f"autoround was imported from {at}, not from {job['tree']}")
    generator = torch.Generator().manual_seed(job["seed"])
    # The first ids are special, and a vision model's image token must not come up.
    size = (job["samples"], job["length"])
    tokens = torch.randint(4, job["vocab"], size, generator=generator)
    recipe = load_recipe(job["recipe"], values=with_known_keys(job["values"]))
    quantize(job["model"], recipe, output_dir=job["out"], device=job["device"], data=tokens)


def with_known_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write values under the keys that the tree's recipes have, today's or the older ones."""
    from autoround.recipe.schema import Recipe

    known: dict[str, Any] = {}
    for path, value in values.items():
        name = path if has_key(Recipe, path) else OLDER_KEYS.get(path, path)
        known[name] = OLDER_VALUES.get((name, str(value)), value)
    return known


def has_key(section: Any, path: str) -> bool:
    """Tell whether a section of a recipe, a pydantic model, has a dotted key."""
    head, _, rest = path.partition(".")
    field = section.model_fields.get(head)
    return field is not None and (not rest or has_key(field.annotation, rest))


def main(arguments: list[str]) -> int:
    """Do what the command line names."""
    if len(arguments) == 2 and arguments[0] == "models":
        make_models(Path(arguments[1]))
    elif len(arguments) == 2 and arguments[0] == "run":
        quantize(json.loads(Path(arguments[1]).read_text(encoding="utf-8")))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
