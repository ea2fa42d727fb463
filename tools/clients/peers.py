"""Take files that other programs wrote through every format and back: nothing may change.

    python tools/clients/peers.py --work DIR --python auto-round=PYTHON --python gptqmodel=PYTHON

A tiny random model is quantized by each client in its own environment (this file, run with
``--write``, needs nothing of this project there). Then, in the project's environment, each
folder is converted to every other format and back by ``autoround convert``, and compared with
what the client wrote: codes, scales, zero points and group orders as integers, all other
tensors as bytes, and the weights that the loader unpacks. Where a format cannot hold a folder,
the refusal is what is checked. Prints a table and exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

GROUP_SIZE = 64
#: A layer some of whose groups are positive throughout, so that their zero point is 0.
ONE_SIDED = "model.layers.0.mlp.up_proj.weight"

TWIN = "gptqmodel-gptq_v2-w4-asym-one-sided"


@dataclass(frozen=True)
class Case:
    """One folder that a client writes, and the name of its format here.

    twin: another case, written before, whose loaded weights must be equal to this one's.
    """

    client: str
    format: str
    bits: int
    sym: bool
    desc_act: bool = False
    one_sided: bool = False
    twin: str = ""

    @property
    def name(self) -> str:
        words = [self.client, self.format.replace(":", "-"), f"w{self.bits}"]
        words += ["sym" if self.sym else "asym"]
        words += ["desc_act"] * self.desc_act + ["one-sided"] * self.one_sided
        return "-".join(words)


CASES = {
    case.name: case
    for case in (
        Case("auto-round", "auto_gptq", 4, True),
        Case("auto-round", "auto_gptq", 4, False),
        Case("auto-round", "auto_gptq", 3, True),
        Case("auto-round", "auto_awq", 4, True),
        Case("auto-round", "auto_awq", 4, False, one_sided=True),
        Case("auto-round", "auto_round", 4, True),
        Case("auto-round", "auto_round", 4, False, one_sided=True),
        Case("auto-round", "auto_round", 2, False),
        Case("auto-round", "auto_round", 8, True),
        Case("gptqmodel", "auto_gptq", 4, True),
        Case("gptqmodel", "auto_gptq", 4, True, desc_act=True),
        Case("gptqmodel", "auto_gptq", 4, False),
        Case("gptqmodel", "gptq_v2", 4, False, one_sided=True),
        Case("gptqmodel", "auto_gptq", 4, False, one_sided=True, twin=TWIN),
        Case("gptqmodel", "gptq_v2", 4, True, desc_act=True),
    )
}
#: Formats that a folder is taken through.
FORMATS = (
    "auto_round",
    "auto_round:auto_gptq",
    "auto_round:auto_awq",
    "auto_gptq",
    "gptq_v2",
    "auto_awq",
    "compressed-tensors",
)


def main() -> None:
    """Write one folder with a client, or do everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--python", action="append", default=[], metavar="CLIENT=PATH")
    parser.add_argument("--write", choices=CASES)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.write:
        case = CASES[args.write]
        write = by_auto_round if case.client == "auto-round" else by_gptqmodel
        write(case, str(args.model), str(args.out))
        return
    if args.work is None:
        parser.error("--work names the folder to work in")
    # Not resolved: what a link in an environment points to is outside of it.
    pythons = {name: os.path.abspath(path) for name, path in (i.split("=", 1) for i in args.python)}
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    good = True
    print("| client | format | scheme | through | result |")
    print("|---|---|---|---|---|")
    for case in CASES.values():
        if case.client not in pythons:
            continue
        for through, line, passed in run(case, args.work, pythons[case.client]):
            scheme = f"W{case.bits} {'sym' if case.sym else 'asym'}"
            scheme += " desc_act" * case.desc_act + " one-sided" * case.one_sided
            print(f"| {case.client} | {case.format} | {scheme} | {through} | {line} |", flush=True)
            good = good and passed
    sys.exit(not good)


# What runs in a client's environment.


def by_auto_round(case: Case, model: str, out: str) -> None:
    """Round to nearest and export with auto-round."""
    from auto_round import AutoRound

    rounder = AutoRound(
        model,
        bits=case.bits,
        group_size=GROUP_SIZE,
        sym=case.sym,
        iters=0,
        disable_opt_rtn=True,
        device_map="cpu",
    )
    rounder.quantize_and_save(out, format=case.format)


def by_gptqmodel(case: Case, model: str, out: str) -> None:
    """Quantize with GPTQ on a few random sentences and save with GPTQModel."""
    import random

    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    config = QuantizeConfig(
        bits=case.bits,
        group_size=GROUP_SIZE,
        sym=case.sym,
        desc_act=case.desc_act,
        format="gptq" if case.format == "auto_gptq" else case.format,
    )
    draw = random.Random(0)
    texts = ["".join(chr(draw.randrange(33, 127)) for _ in range(96)) for _ in range(8)]
    loaded = GPTQModel.load(model, config, device="cpu")
    loaded.quantize(texts, batch_size=1, backend=BACKEND.TORCH)
    loaded.save(out)


# What runs in the project's environment.


def run(case: Case, work: Path, python: str) -> Iterator[tuple[str, str, bool]]:
    """Write a folder and take it through every other format and back."""
    source = work / case.name
    if not source.exists():
        source_model = make_model(work / "models", one_sided=case.one_sided)
        command = [python, os.path.abspath(__file__), "--write", case.name]
        command += ["--model", str(source_model), "--out", str(work / "writing")]
        # By itself GPTQModel plans fewer workers than it then wants where there are few cores.
        own = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2"}
        # Some clients leave logs where they run.
        done = subprocess.run(command, capture_output=True, text=True, env=own, cwd=work)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            yield "-", f"the client failed: {reason[:200]}", False
            return
        found = next((work / "writing").rglob("config.json")).parent
        shutil.move(found, source)
        shutil.rmtree(work / "writing", ignore_errors=True)
    if case.twin and (work / case.twin).exists():
        wrong = loaded_differences(source, work / case.twin)
        yield f"loaded beside {case.twin}", *judged(wrong)
    for through in FORMATS:
        if through == case.format:
            continue
        there, back = work / "there", work / "back"
        for folder in (there, back):
            shutil.rmtree(folder, ignore_errors=True)
        code, said = convert(source, through, there)
        if code:
            yield through, *refused(case, through, code, said)
            continue
        code, said = convert(there, case.format, back)
        if code:
            # Version 1 written from whole words holds a zero point of 0; written by field not.
            line, passed = refused(case, case.format, code, said)
            yield through, f"and back {line}", passed
            continue
        yield through, *judged(differences(source, back))


def judged(wrong: list[str]) -> tuple[str, bool]:
    return ("; ".join(wrong), False) if wrong else ("equal", True)


def refused(case: Case, through: str, code: int, said: str) -> tuple[str, bool]:
    """Judge a refusal: right where a format cannot hold the folder, and in plain words."""
    unheld = (
        (case.desc_act and "desc_act" in said)
        or (case.bits != 4 and f"cannot hold W{case.bits}" in said)
        or (case.one_sided and "zero points outside 1 " in said)
    )
    good = unheld and code == 7
    return (f"refused: {said.split(';')[0].removeprefix('error: ')}" if good else said), good


def convert(source: Path, to: str, out: Path) -> tuple[int, str]:
    """Run ``autoround convert``; return its exit code and what it said."""
    from autoround.cli.main import run as command

    out_text, err_text = StringIO(), StringIO()
    with redirect_stdout(out_text), redirect_stderr(err_text):
        code = command(["convert", str(source), "--to", to, "-o", str(out)])
    said = (err_text.getvalue() if code else out_text.getvalue()).strip()
    return code, " ".join(said.split())[:300]


def make_model(folder: Path, *, one_sided: bool) -> Path:
    """Write a Llama of two small blocks with random weights, and a tokenizer of characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    path = folder / ("one-sided" if one_sided else "plain")
    if path.exists():
        return path
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=128,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        dtype="float16",
    )
    model = AutoModelForCausalLM.from_config(config).half()
    if one_sided:
        with torch.no_grad():
            weight = model.get_parameter(ONE_SIDED)
            weight[::5, :GROUP_SIZE] = weight[::5, :GROUP_SIZE].abs()
    model.save_pretrained(path)
    vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}
    vocabulary |= {chr(code): 4 + code - 33 for code in range(33, 127)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(path)
    return path


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between two folders, in words; empty where nothing does."""
    first, second = content(one), content(other)
    found = [f"only one has {name}" for name in sorted(first.keys() ^ second.keys())[:3]]
    found += [
        f"{name} differs"
        for name in sorted(first.keys() & second.keys())
        if not same(first[name], second[name])
    ][:3]
    return found + [f"loaded {name} differs" for name in loaded_differences(one, other)][:3]


def same(one: Tensor, other: Tensor) -> bool:
    """Compare bit for bit: a zero and a negative zero differ."""
    import torch

    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    first, second = (tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other))
    return torch.equal(first, second)


def content(folder: Path) -> dict[str, Tensor]:
    """Return codes, scales, zero points and orders of quantized layers, and all else as it is."""
    from safetensors import safe_open

    from autoround.formats.checkpoints import packed_layers
    from autoround.formats.parts import headers_of_parts
    from autoround.formats.registry import layout_named, telling_parts
    from autoround.model.files.locate import read_config, read_quantization

    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    quantization = read_quantization(folder, read_config(folder)) or {}
    telling = telling_parts()
    names = [n.rpartition(".")[0] for n in tensors if n.rpartition(".")[2] in telling]
    headers = headers_of_parts(tensors)
    for name, stored in packed_layers(quantization, dict.fromkeys(names, (0, 0)), headers).items():
        layout = layout_named(stored.packing)
        parts = {p: tensors.pop(f"{name}.{p}") for p in layout.parts if f"{name}.{p}" in tensors}
        layer = layout.from_tensors(parts, stored.scheme, name=name)
        tensors |= {f"{name}: codes": layer.codes, f"{name}: scales": layer.scale}
        tensors |= {f"{name}: zero points": layer.zero}
        if "g_idx" in parts:
            tensors[f"{name}: order"] = parts["g_idx"]
    return tensors


def loaded_differences(one: Path, other: Path) -> list[str]:
    """Return the tensors of the loaded models that are not equal."""
    import torch

    from autoround.inference.load import load

    def state(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = load(
            folder, device="cpu", dtype=torch.float32, dense=True
        ).state_dict()
        return found

    first, second = state(one), state(other)
    return [n for n in first if n not in second or not torch.equal(first[n], second[n])]


if __name__ == "__main__":
    main()
