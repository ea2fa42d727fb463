"""Calls that people type for auto-round: only program name, import and model are changed.

Each runs, or ends with an error that has our word for it. The built-in recipes do less here than
they do elsewhere: fewer steps, and fewer and shorter samples, where a call does not say how many.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import autoround
from autoround.cli.main import run
from autoround.errors import AutoRoundError
from autoround.recipe import find

from ..quick import write_quick_recipes, write_wide_model
from ..runs import even_device
from ..tiny import token_ids

__all__ = ["even_device"]
Q_PROJ = "model.layers.0.self_attn.q_proj"


class Call(NamedTuple):
    """What is typed; and what its error names in its place, empty where the call works."""

    typed: str
    word: str = ""

    def __str__(self) -> str:
        return self.typed


#: MODEL and OUT stand for a model and a folder.
COMMANDS = (
    Call(
        "auto-round --model MODEL --bits 4 --group_size 128 "
        '--format "auto_round,auto_awq,auto_gptq" --output_dir OUT'
    ),
    Call("auto-round-best --model MODEL --output_dir OUT"),
    Call("auto-round-light --model MODEL --output_dir OUT"),
    Call("auto-round --model MODEL --recipe auto-round-best --output_dir OUT"),
    Call("auto-round --model MODEL --recipe auto-round-light --output_dir OUT"),
    Call("auto-round --model MODEL --iters 0 --output_dir OUT"),
    Call("auto-round --model_name MODEL --iters 0 --output OUT"),
    *(
        Call(f"auto-round --model MODEL --bits {n} --iters 0 --output_dir OUT")
        for n in (2, 3, 4, 8)
    ),
    *(Call(f"auto-round --model MODEL --{s} --iters 0 --output_dir OUT") for s in ("sym", "asym")),
    *(
        Call(f"auto-round --model MODEL --group_size {n} --iters 0 --output_dir OUT")
        for n in (-1, 32, 64, 128)
    ),
    *(Call(f"auto-round --model MODEL --nsamples {n} --output_dir OUT") for n in (128, 512)),
    *(Call(f"auto-round --model MODEL --seqlen {n} --output_dir OUT") for n in (512, 2048)),
    Call(
        "auto-round --model MODEL --dataset NeelNanda/pile-10k --output_dir OUT",
        "--dataset embedded",
    ),
    Call("auto-round --model MODEL --lr 5e-3 --minmax_lr 5e-3 --output_dir OUT"),
    Call("auto-round --model MODEL --low_gpu_mem_usage --output_dir OUT"),
    Call("auto-round --model MODEL --device_map auto --iters 0 --output_dir OUT"),
    Call("auto-round --model MODEL --device_map cpu --iters 0 --output_dir OUT"),
    Call("auto-round --model MODEL --device_map 0 --output_dir OUT", "devices here: auto, cpu"),
    Call("auto-round --model MODEL --device_map 0,1 --output_dir OUT", "devices here: auto, cpu"),
    Call("auto-round --model MODEL --quant_lm_head --output_dir OUT"),
    Call(
        "auto-round --model MODEL --iters 0 --output_dir OUT "
        f"""--layer_config '{{"{Q_PROJ}": {{"bits": 8}}, ".*mlp.*": "W8A16"}}'"""
    ),
    Call(
        f"auto-round --model MODEL --layer_config {{{Q_PROJ}:{{bits:8}}}} --iters 0 "
        "--output_dir OUT"
    ),
    Call("auto-round --model MODEL --scheme W4A16 --iters 0 --output_dir OUT"),
    Call("auto-round --model MODEL --scheme W2A16 --group_size 32 --iters 0 --output_dir OUT"),
    Call("auto-round --model MODEL --scheme NVFP4 --output_dir OUT", "W2A16 to W8A16"),
    Call("auto-round --model MODEL --scheme gguf:q4_k_m --output_dir OUT", "--format gguf:q4_k_m"),
    Call("auto-round --model MODEL --avg_bits 5 --options W4A16,W8A16 --iters 0 --output_dir OUT"),
    Call("auto-round --model MODEL --ignore_layers q_proj,mlp --iters 0 --output_dir OUT"),
    Call("auto-round --model MODEL --tasks piqa,mmlu --output_dir OUT", "lm-eval"),
    Call("auto-round --model MODEL --eval_bs 16 --output_dir OUT", "lm-eval"),
    Call("auto-round MODEL --iters 0 --output_dir OUT"),
)
#: Arguments of ``AutoRound(model, tokenizer, ...)``, and whether the model is a loaded one.
ARGUMENTS = (
    Call("bits=4, group_size=128, sym=True"),
    Call(f'layer_config={{"{Q_PROJ}": {{"bits": 8}}}}'),
    Call('scheme="W4A16"'),
    Call("quant_lm_head=True"),
    Call("device_map=0", "devices here: auto, cpu"),
    Call('device_map="auto"'),
    Call('device_map="cuda:0"', "devices here: auto, cpu"),
    Call("low_gpu_mem_usage=True"),
    Call('dataset="embedded"'),
    Call('dataset="NeelNanda/pile-10k"', "--dataset embedded"),
    Call("iters=3, nsamples=8, seqlen=16, batch_size=2, gradient_accumulate_steps=2"),
)
FORMATS = ("auto_round", "auto_awq", "auto_gptq")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model whose layers take groups of 128, and texts of 2048 tokens."""
    return write_wide_model(tmp_path_factory.mktemp("usage") / "model")


@pytest.fixture(autouse=True)
def quick_recipes(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give built-in recipes few steps, and few and short samples."""
    folder = write_quick_recipes(tmp_path_factory.mktemp("recipes"))
    monkeypatch.setattr(find, "_builtin_folder", lambda: folder)


def words_of(call: Call, model: Path, out: Path) -> list[str]:
    """Return what is typed here: the program's name is another, and the model."""
    program, *words = shlex.split(call.typed)
    start = {"auto-round": [], "auto-round-best": ["--recipe", "best"]}
    start["auto-round-light"] = ["--recipe", "light"]
    typed = [w.replace("MODEL", str(model)).replace("OUT", str(out)) for w in words]
    return [*typed[:2], *start[program], *typed[2:]]


def expect_model(out: Path, *, formats: tuple[str, ...] = ()) -> None:
    """Load what was written, and run it."""
    for folder in [out / name for name in formats] or [out]:
        loaded = autoround.load(folder, device="cpu")
        logits = loaded(input_ids=token_ids(1, 8)).logits
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("call", COMMANDS, ids=str)
def test_a_command(
    call: Call, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = run(words_of(call, model, out))
    error = capsys.readouterr().err
    if call.word:
        assert code not in (0, 1)
        assert call.word in error
        assert not out.exists()
        return
    assert (code, error) == (0, "")
    expect_model(out, formats=FORMATS if "auto_awq" in call.typed else ())
    if "layer_config" in call.typed:
        plan = json.loads((out / "plan.json").read_text())
        assert plan["rules"][0]["schemes"] == [["W8 g128 sym", 1]]
    if "quant_lm_head" in call.typed:
        assert "lm_head.qweight" in (out / "model.safetensors").read_bytes()[:20_000].decode(
            "latin1"
        )


@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "name"])
@pytest.mark.parametrize("call", ARGUMENTS, ids=str)
def test_arguments_of_the_class(call: Call, loaded: bool, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if not loaded and call != ARGUMENTS[0]:
        pytest.skip("how the model is given makes no difference to arguments")
    whole: Any = AutoModelForCausalLM.from_pretrained(model) if loaded else str(model)
    names = {"model": whole, "tokenizer": AutoTokenizer.from_pretrained(model), "D": str(out)}
    lines = (
        "from autoround import AutoRound",
        f"ar = AutoRound(model, tokenizer, {call.typed})",
        'ar.quantize_and_save(D, format="auto_round,auto_awq,auto_gptq")'
        if call == ARGUMENTS[0]
        else "ar.quantize_and_save(D)",
    )
    if call.word:
        with pytest.raises(AutoRoundError, match=re.escape(call.word)):
            exec("\n".join(lines), names)
        assert not out.exists()
        return
    exec("\n".join(lines), names)
    expect_model(out, formats=FORMATS if call == ARGUMENTS[0] else ())


@pytest.mark.slow
@pytest.mark.parametrize("where", ["command", "class"])
def test_compiled_blocks(where: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if where == "command":
        assert run(["--model", str(model), "--enable_torch_compile", "--output_dir", str(out)]) == 0
    else:
        names: dict[str, Any] = {
            "model": AutoModelForCausalLM.from_pretrained(model),
            "D": str(out),
        }
        names["tokenizer"] = AutoTokenizer.from_pretrained(model)
        exec(
            "from autoround import AutoRound\n"
            "ar = AutoRound(model, tokenizer, bits=4, group_size=128, sym=True, "
            "enable_torch_compile=True)\n"
            'ar.quantize_and_save(D, format="auto_round")',
            names,
        )
    expect_model(out)


@pytest.fixture(scope="module")
def written(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantize the model to three formats at once."""
    out = tmp_path_factory.mktemp("written") / "out"
    names = ["--format", ",".join(FORMATS), "--recipe", "rtn", "--output_dir", str(out)]
    assert run(["--model", str(model), *names]) == 0
    return out


def test_inference_by_transformers(written: Path) -> None:
    folder = written / "auto_round"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, device_map="auto", torch_dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("There is a girl who likes adventure,", return_tensors="pt").to(model.device)
    ids = model.generate(**inputs, max_new_tokens=50, do_sample=False)
    assert ids.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("name", ["auto_gptq", "auto_awq"])
def test_checkpoints_of_others_become_auto_rounds(name: str, written: Path, tmp_path: Path) -> None:
    from autoround import AutoRoundConfig

    model: Any = AutoModelForCausalLM.from_pretrained(
        written / name,
        device_map="cpu",
        torch_dtype="auto",
        quantization_config=AutoRoundConfig(),
    )
    expected = model(input_ids=token_ids(1, 8)).logits
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "auto-round"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", torch_dtype="auto")
    logits = again(input_ids=token_ids(1, 8)).logits
    torch.testing.assert_close(logits, expected, atol=2e-2, rtol=2e-2)


def test_every_call_is_counted() -> None:
    calls = [*COMMANDS, *ARGUMENTS]
    named = [call for call in calls if call.word]
    assert (len(calls) - len(named), len(named)) == (41, 10)
