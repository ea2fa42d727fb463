"""Write tiny models in the formats that serving engines read, and let an engine's loader read them.

    python tools/clients/served.py --work DIR --dry "PYTHON SCRIPT" [--model NAME] [--case NAME]

Models of random weights (dense, mixtures of experts, latent attention, vision) are rounded without
tuning in every case of bits and rules that a format holds, each beside ``fake``, the plain weights
of the same codes. The loader, called as ``SCRIPT BASE FOLDER...``, reads every folder, dequantizes
what the engine holds and compares it with ``BASE/fake``. It prints for each folder a JSON object
with ``error``, or ``loads`` and the ``unloaded`` parameters, and then a line ``differ N [...]``.

A cell is one of: loads (equal weights), plan (the plan says that vLLM refuses the folder, and it
does), Humming (needs that package on CUDA, as the plan says), refused (by us, before any work), or
FAULT: loaded with other weights, refused without a word in the plan, or loaded although the plan
says the opposite. Exits with 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FORMATS = ("auto_gptq", "gptq_v2", "auto_awq", "auto_round")
GROUP_SIZE = 32
VOCABULARY = 512
#: Texts of a plan's notes that say what vLLM does not load.
SAYS = re.compile(
    r"vLLM (?:and SGLang )?(?:refuses?\b|reads experts|merge layers|runs .* on CUDA only)"
)


class Case(NamedTuple):
    """Bits and rules of one model: keys of a recipe."""

    bits: int
    sym: bool = True
    layers: tuple[dict[str, Any], ...] = ()
    more: tuple[tuple[str, Any], ...] = ()


def _rule(bits: int, **what: Any) -> dict[str, Any]:
    """Return a rule of a recipe."""
    return {**what, "bits": bits}


CASES: dict[str, Case] = {
    "W4 sym": Case(4),
    "W4 asym": Case(4, sym=False),
    "W8 sym": Case(8),
    "W3 sym": Case(3),
    "W2 asym": Case(2, sym=False),
    "W4 g16 sym": Case(4, more=(("scheme.group_size", 16),)),
    "W4 channel sym": Case(4, more=(("scheme.group_size", -1),)),
    "attention 8": Case(4, layers=(_rule(8, kind="attention"),)),
    "first block 16": Case(4, layers=(_rule(16, match="re:.*", blocks="first 1"),)),
    "attention 16": Case(4, layers=(_rule(16, kind="attention"),)),
    "first block 8, attention 16": Case(
        4, layers=(_rule(8, match="re:.*", blocks="first 1"), _rule(16, kind="attention"))
    ),
    "W4 asym, attention 16": Case(4, sym=False, layers=(_rule(16, kind="attention"),)),
    "head 4": Case(4, layers=(_rule(4, kind="lm_head"),)),
    "head 8, attention 16": Case(4, layers=(_rule(16, kind="attention"), _rule(8, kind="lm_head"))),
    "q differs from k": Case(4, layers=(_rule(8, match="q_proj"),)),
}
EXPERTS: dict[str, Case] = {
    "experts 8, rest 4": Case(4, layers=(_rule(8, kind="experts"),)),
    "experts 4, rest 8": Case(8, layers=(_rule(4, kind="experts"),)),
    "experts 16, rest 4": Case(4, layers=(_rule(16, kind="experts"),)),
    "experts of the first block 16": Case(4, layers=(_rule(16, kind="experts", blocks="first 1"),)),
    "experts of the first block 8": Case(4, layers=(_rule(8, kind="experts", blocks="first 1"),)),
    "W4 asym, experts 16": Case(4, sym=False, layers=(_rule(16, kind="experts"),)),
}
VISION: dict[str, Case] = {"towers too": Case(4, more=(("quantize_vision", True),))}


def _small(kind: str, **values: Any) -> Any:
    """Return a config of transformers, small enough for seconds."""
    import transformers

    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return getattr(transformers, kind)(**{**common, **values})


def qwen2_moe() -> Any:
    """Return a mixture with a shared expert."""
    return _small(
        "Qwen2MoeConfig",
        moe_intermediate_size=128,
        shared_expert_intermediate_size=256,
        num_experts=8,
        num_experts_per_tok=2,
    )


def mixtral() -> Any:
    """Return a mixture whose experts are called w1, w2 and w3."""
    return _small("MixtralConfig", num_local_experts=4, num_experts_per_tok=2)


def narrow_moe() -> Any:
    """Return a mixture too narrow for the fast kernels for experts."""
    return _small(
        "Qwen3MoeConfig",
        hidden_size=192,
        head_dim=64,
        moe_intermediate_size=64,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
    )


def deepseek() -> Any:
    """Return latent attention, whose first projections are merged under a name of their own."""
    return _small(
        "DeepseekV2Config",
        q_lora_rank=64,
        kv_lora_rank=64,
        qk_rope_head_dim=64,
        qk_nope_head_dim=64,
        v_head_dim=64,
        first_k_dense_replace=1,
        moe_intermediate_size=128,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        topk_method="greedy",
        norm_topk_prob=False,
        routed_scaling_factor=1.0,
    )


def llava() -> Any:
    """Return a Llama with a CLIP tower: its layers end like the tower's."""
    import transformers

    tower = transformers.CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
        projection_dim=64,
    )
    text = _small("LlamaConfig")
    return transformers.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=5, tie_word_embeddings=False
    )


def qwen2_5_vl() -> Any:
    """Return a Qwen2 with a tower of its own."""
    import transformers

    text = _small("LlamaConfig").to_dict()
    keys = (
        "model_type",
        "architectures",
        "head_dim",
        "mlp_bias",
        "attention_bias",
        "pretraining_tp",
    )
    text = {k: v for k, v in text.items() if k not in keys}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [8, 12, 12],
    }
    return transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 256,
            "fullatt_block_indexes": [1],
        },
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=7,
        vision_end_token_id=8,
        tie_word_embeddings=False,
    )


MODELS: dict[str, tuple[Callable[[], Any], dict[str, Case]]] = {
    "llama": (lambda: _small("LlamaConfig"), CASES),
    "qwen2-moe": (qwen2_moe, {**EXPERTS, "attention 8": CASES["attention 8"]}),
    "mixtral": (mixtral, EXPERTS),
    "narrow-moe": (narrow_moe, EXPERTS),
    "deepseek": (
        deepseek,
        {name: CASES[name] for name in ("attention 8", "attention 16")}
        | {name: EXPERTS[name] for name in ("experts 8, rest 4", "experts 16, rest 4")},
    ),
    "llava": (
        llava,
        {
            name: CASES[name]
            for name in (
                *("W4 sym", "W4 asym", "attention 8", "first block 16", "attention 16"),
                *("first block 8, attention 16", "head 8, attention 16"),
            )
        }
        | VISION,
    ),
    "qwen2.5-vl": (
        qwen2_5_vl,
        {
            name: CASES[name]
            for name in ("W4 asym", "attention 8", "first block 16", "attention 16", "head 4")
        }
        | VISION,
    ),
}


def make_model(work: Path, name: str) -> Path:
    """Save a model of random weights, unless that was done before."""
    import torch
    import transformers

    folder = work / "models" / name
    if not folder.exists():
        torch.manual_seed(0)
        config = MODELS[name][0]()
        loader: Any = transformers.AutoModelForCausalLM
        if hasattr(config, "vision_config"):
            loader = transformers.AutoModelForImageTextToText
        model = loader.from_config(config).to(torch.float16)
        for parameter in model.parameters():
            # Biases too, which begin as zeros: what is not loaded is to be seen.
            if parameter.dim() == 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        model.save_pretrained(folder)
        if name == "llava":
            _as_published(folder / "model.safetensors")
    return folder


def _as_published(file: Path) -> None:
    """Give a CLIP tower the names that published checkpoints have, which vLLM asks for."""
    from safetensors.torch import load_file, save_file

    old, new = "vision_tower.", "vision_tower.vision_model."
    tensors = load_file(file)
    if not any(name.startswith(new) for name in tensors):
        tensors = {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}
        save_file(tensors, file, metadata={"format": "pt"})


class Written(NamedTuple):
    """A case in all formats that hold it, side by side, and what the plan says of engines."""

    folder: Path
    formats: tuple[str, ...]
    notes: tuple[str, ...]


def write(work: Path, model: str, name: str, formats: Sequence[str]) -> Written:
    """Round a model for a case, with the plain weights beside, unless that was done before."""
    import autoround

    source = str(make_model(work, model))
    folder = work / model / re.sub(r"\W+", "-", name)
    told = folder / "told.json"
    if not told.exists():
        fitting = [x for x in formats if not why_not_planned(source, recipe_of(model, name, (x,)))]
        recipe = recipe_of(model, name, (*fitting, "fake"))
        result = autoround.quantize(source, recipe, output_dir=folder / "out", device="cpu")
        told.write_text(json.dumps([fitting, result.plan.notes]))
    fitting, notes = json.loads(told.read_text())
    return Written(folder / "out", tuple(fitting), tuple(notes))


def recipe_of(model: str, name: str, formats: Sequence[str]) -> Any:
    """Return the recipe of a case."""
    from autoround.recipe.load import load_recipe

    case = MODELS[model][1][name]
    values: dict[str, Any] = {
        "scheme.bits": case.bits,
        "scheme.sym": case.sym,
        "scheme.group_size": GROUP_SIZE,
        "layers": list(case.layers),
        "output.format": ",".join(formats),
        "output.dtype": "float16",
        **dict(case.more),
    }
    return load_recipe("rtn", values=values)


def why_not_planned(source: str, recipe: Any) -> str:
    """Return why a plan cannot be made, or an empty text."""
    import autoround
    from autoround.errors import AutoRoundError

    try:
        autoround.plan(source, recipe, device="cpu")
    except AutoRoundError as error:
        return str(error)
    return ""


def read(command: list[str], written: Written) -> dict[str, tuple[bool, str]]:
    """Let the engine's loader read the folders of a case.

    Returns whether the weights of each are equal, and what is wrong otherwise.
    """
    folders = [written.folder / name for name in written.formats]
    done = subprocess.run(
        [*command, str(written.folder), *map(str, folders)], capture_output=True, text=True
    )
    parts = re.split(r"^\{$", done.stdout, flags=re.M)[1:]
    lost = (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
    return {
        name: verdict(parts[i]) if i < len(parts) else (False, lost)
        for i, name in enumerate(written.formats)
    }


def verdict(told: str) -> tuple[bool, str]:
    """Read what the loader says of one folder."""
    error = re.search(r'"error": "(.*)",?$', told, re.M)
    if error:
        return False, error[1][:200]
    differ = re.search(r"^\s*differ (\d+) (.*)$", told, re.M)
    if '"loads": true' not in told or differ is None:
        return False, "no answer"
    if differ[1] != "0":
        return False, f"OTHER WEIGHTS {differ[1]}: {differ[2][:160]}"
    whole = re.search(r'"unloaded": \[\s*\]', told) is not None
    return whole, "" if whole else "parameters that no tensor was loaded into"


def cell_of(said: bool, loads: bool, words: str) -> str:
    """Return the cell of a table.

    said: whether the plan says that the engine does not load the folder.
    """
    if loads:
        return "FAULT: loads, and the plan says not" if said else "loads"
    # On the CUDA that the plan speaks of, vLLM needs a package of its own for these kernels.
    if "humming" in words and said:
        return "Humming"
    if words.startswith("OTHER") or not said:
        return f"FAULT: {words}"
    return "plan"


def says(notes: Sequence[str], format_name: str) -> bool:
    """Tell whether a note about a format says that the engine does not load it."""
    about = [n for n in notes if format_name in n.partition(": ")[0].split(", ")]
    return any(SAYS.search(note) for note in about)


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dry", metavar="COMMAND", help="The loader to run; none: write alone.")
    parser.add_argument("--model", action="append", default=[], help="Only these models.")
    parser.add_argument("--case", action="append", default=[], help="Only these cases.")
    parser.add_argument("--format", action="append", default=[], help="Only these formats.")
    args = parser.parse_args()
    formats = args.format or FORMATS
    faults = 0
    if args.dry:
        print("| model | case | " + " | ".join(f"`{name}`" for name in formats) + " |")
        print("|---|---|" + "---|" * len(formats))
    for model, (_, cases) in MODELS.items():
        for name in cases:
            if (args.model and model not in args.model) or (args.case and name not in args.case):
                continue
            written = write(args.work.absolute(), model, name, formats)
            if not args.dry:
                print(written.folder, flush=True)
                continue
            loaded = read(shlex.split(args.dry), written)
            cells = [
                cell_of(says(written.notes, x), *loaded[x]) if x in loaded else "refused"
                for x in formats
            ]
            faults += sum(cell.startswith("FAULT") for cell in cells)
            print(f"| {model} | {name} | {' | '.join(cells)} |", flush=True)
    print(f"{faults} faults", file=sys.stderr)
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
