"""Models of many schemes, by rules: written in every format that holds them, and read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import autoround
from autoround import api
from autoround.checkpoints.convert import convert
from autoround.checkpoints.inspect import inspect_folder
from autoround.errors import FormatError, RecipeError
from autoround.evaluate.models import load_any
from autoround.inference.load import load
from autoround.inference.opening import open_packed
from autoround.model.build import build_empty
from autoround.model.skeleton import adopt_model
from autoround.recipe.load import load_recipe
from autoround.types import RunResult, Scheme

from .. import zoo
from ..runs import SMALL, even_device, logits, make_session, quantized, same, tensors_of
from ..tiny import make_model, token_ids

__all__ = ["even_device"]

IDS = token_ids(1, 12)
ANY_BITS = [
    {"kind": "attention", "bits": 8},
    {"match": "down_proj", "bits": 2, "group_size": 16},
    {"match": "up_proj", "blocks": "last 1", "bits": 3},
    {"match": "model.layers.1.self_attn.v_proj", "bits": 16},
    {"kind": "lm_head", "bits": 8},
]
FOUR_AND_EIGHT = [
    {"kind": "attention", "bits": 8},
    {"match": "down_proj", "group_size": -1},
    {"match": "model.layers.1.self_attn.v_proj", "bits": 16},
]
SIGNS = [
    {"kind": "attention", "bits": 8},
    {"match": "down_proj", "sym": False},
    {"match": "model.layers.1.mlp.up_proj", "sym": False, "group_size": 16, "bits": 2},
]
KEPT = [{"match": "down_proj", "blocks": 0, "bits": 16}]


def quantize(model: Any, out: Path, rules: list[Any], **values: object) -> RunResult:
    given = {**SMALL, **{key.replace("__", "."): value for key, value in values.items()}}
    recipe = load_recipe("default", values={**given, "layers": rules})
    return api.quantize(model, recipe, output_dir=out, data=token_ids(4, 16), device="cpu")


@pytest.mark.parametrize(
    ("formats", "rules"),
    [
        ("auto_round,auto_gptq,gptq_v2", ANY_BITS),
        ("auto_round,compressed-tensors", FOUR_AND_EIGHT),
        ("compressed-tensors", ANY_BITS),
        ("auto_round,gptq_v2,compressed-tensors", SIGNS),
        ("auto_round,auto_round:auto_awq,auto_awq", KEPT),
    ],
)
def test_every_format_says_what_each_layer_is_and_answers_as_the_plain_weights(
    formats: str, rules: list[Any], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = quantize(checkpoint("llama"), out, rules, output__format=f"{formats},fake")
    wanted = {x.name: x.scheme for x in result.plan.layers if x.scheme is not None}
    assert len(set(wanted.values())) > 1 or rules == KEPT
    plain = logits(load_any(out / "fake", device="cpu"), IDS)
    for folder in (out / name.replace(":", "-") for name in formats.split(",")):
        found = {n: s for n, (_, (s, _)) in opened(folder).items()}
        assert {n: (s.bits, s.group_size) for n, s in found.items()} == {
            n: (s.bits, s.group_size) for n, s in wanted.items()
        }
        assert all(wanted[n].sym or not s.sym for n, s in found.items())
        ours = logits(load(folder, device="cpu", dtype=torch.float32), IDS)
        # Scales times codes are rounded to float32 there, and nowhere to float16.
        torch.testing.assert_close(ours, plain, rtol=2e-3, atol=2e-3)


def opened(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    quantization = config["quantization_config"]
    return dict(open_packed(folder, build_empty(folder), quantization).linears)


def test_mlx_holds_a_scheme_for_every_layer(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    rules = [
        {"kind": "attention", "bits": 8},
        {"match": "down_proj", "bits": 3},
        {"match": "model.layers.1.self_attn.v_proj", "bits": 16},
    ]
    out = tmp_path / "out"
    quantize(checkpoint("llama"), out, rules, output__format="mlx,fake")
    found = {n: s.bits for n, (_, (s, _)) in opened(out / "mlx").items()}
    assert found["model.layers.0.self_attn.q_proj"] == 8
    assert found["model.layers.0.mlp.down_proj"] == 3
    assert found["model.layers.0.mlp.up_proj"] == 4
    assert "model.layers.1.self_attn.v_proj" not in found
    plain = logits(load_any(out / "fake", device="cpu"), IDS)
    ours = logits(load(out / "mlx", device="cpu", dtype=torch.float32), IDS)
    torch.testing.assert_close(ours, plain, rtol=2e-3, atol=2e-3)


def test_transformers_loads_a_mixed_model_through_us(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(checkpoint("llama"), out, ANY_BITS, output__format="auto_round,auto_gptq,fake")
    plain = logits(load_any(out / "fake", device="cpu"), IDS)
    for name in ("auto_round", "auto_gptq"):
        config = autoround.AutoRoundConfig(backend="torch")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            out / name, dtype=torch.float32, quantization_config=config
        )
        torch.testing.assert_close(logits(model.eval(), IDS), plain, rtol=2e-3, atol=2e-3)
        model.save_pretrained(tmp_path / f"{name}-saved")
        again = load(tmp_path / f"{name}-saved", device="cpu", dtype=torch.float32)
        torch.testing.assert_close(logits(again, IDS), plain, rtol=2e-3, atol=2e-3)


def test_experts_of_other_bits_than_the_rest(tmp_path: Path) -> None:
    rules = [
        {"kind": "experts", "bits": 4},
        {"match": "down_proj", "kind": "experts", "bits": 3, "group_size": 16},
    ]
    out = tmp_path / "out"
    model = zoo.make_model("qwen2_moe")
    formats = "auto_round,auto_gptq,fake"
    result = quantize(model, out, rules, scheme__bits=8, output__format=formats)
    merged = [finding for finding in result.plan.serving if finding.rule == "merged-differ"]
    assert any("W3 g16 sym and W4 g32 sym" in finding.example for finding in merged)
    plain = logits(load_any(out / "fake", device="cpu"), IDS)
    for name in ("auto_round", "auto_gptq"):
        ours = logits(load(out / name, device="cpu", dtype=torch.float32), IDS)
        torch.testing.assert_close(ours, plain, rtol=2e-3, atol=2e-3)


def test_a_mixed_model_converts_bit_for_bit_and_is_inspected(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(checkpoint("llama"), out, ANY_BITS, output__format="auto_round,auto_gptq")
    done = convert(out / "auto_gptq", tmp_path / "there", formats=["auto_round"])
    assert not done.lossy
    first, second = tensors_of(out / "auto_round"), tensors_of(tmp_path / "there")
    packed = [n for n in first if n.endswith("qweight")]
    assert packed
    assert all(torch.equal(first[n], second[n]) for n in packed)
    found = inspect_folder(tmp_path / "there")
    assert found.layers["model.layers.0.mlp.down_proj"].startswith("W2 g16 sym")
    assert found.layers["lm_head"].startswith("W8 g32 sym")


def test_awq_takes_no_second_scheme_from_another_format(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(checkpoint("llama"), out, [{"match": "down_proj", "group_size": 16}])
    with pytest.raises(FormatError, match="auto_awq cannot hold W4 .* in one model"):
        convert(out, tmp_path / "awq", formats=["auto_awq"])
    convert(out, tmp_path / "there", formats=["auto_round:auto_awq"])


def test_a_mixed_model_is_tuned_and_distilled_and_goes_through_the_last_check(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    values = {"end_to_end.steps": 3, "end_to_end.batch_size": 2, "end_to_end.tune_codes": True}
    result = quantize(make_model("llama"), out, ANY_BITS, **values)
    assert all(block.loss_after <= block.loss_before for block in result.blocks)
    found = {n: s.bits for n, (_, (s, _)) in opened(out).items()}
    assert sorted(set(found.values())) == [2, 3, 4, 8]


def test_rules_of_the_same_scheme_change_nothing() -> None:
    job = make_session(make_model("llama"), data=token_ids(4, 16))
    ruled = make_session(
        make_model("llama"), {"layers": [{"kind": "mlp", "bits": 4}]}, data=token_ids(4, 16)
    )
    assert same(quantized(job), quantized(ruled))


def test_the_class_takes_rules_too(tmp_path: Path) -> None:
    settings = tuple(f"{p}={v}" for p, v in SMALL.items() if p.startswith(("tuning", "output")))
    tuner = autoround.AutoRound(
        make_model("llama"),
        group_size=32,
        nsamples=4,
        seqlen=16,
        dataset=token_ids(4, 16),
        layers=[{"kind": "attention", "bits": 8}, {"match": "o_proj", "bits": 2}],
        overrides=settings,
    )
    dense, layers = tuner.quantize()
    assert layers["model.layers.0.self_attn.q_proj"].scheme == Scheme(8, 32, True)
    assert layers["model.layers.0.self_attn.o_proj"].scheme == Scheme(2, 32, True)
    assert int(layers["model.layers.0.self_attn.o_proj"].codes.max()) <= 3
    tuner.save_quantized(tmp_path / "out")
    ours = logits(load(tmp_path / "out", device="cpu", dtype=torch.float32), IDS)
    torch.testing.assert_close(ours, logits(dense, IDS), rtol=1e-3, atol=1e-3)
    with pytest.raises(RecipeError, match=r"^layers: layers\[0\].bits: expected auto"):
        autoround.AutoRound(make_model("llama"), layers=[{"kind": "mlp", "bits": 9}])
    with pytest.raises(RecipeError, match=r"^layers\[0\]: 'x' matches no layer"):
        api.plan(
            adopt_model(make_model("llama")).model,
            load_recipe("rtn", values={"layers": [{"match": "x", "bits": 8}]}),
        )
