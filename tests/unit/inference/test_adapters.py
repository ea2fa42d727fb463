"""LoRA of peft on packed layers, by peft itself.

peft is no dependency: ``tools/clients/check.sh`` makes an environment that has it and runs this.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import autoround
from autoround.errors import UsageError
from autoround.inference.linear import QuantLinear

from ...runs import logits
from ...tiny import token_ids
from ...zoo import make_model

peft = pytest.importorskip("peft")

Family = Callable[[str], Path]
IDS = 4 + token_ids(2, 12) % 90
NAMED = ["q_proj", "v_proj", "up_proj"]


def fresh(folder: Path) -> Any:
    return autoround.load(folder, device="cpu", dtype=torch.float32)


def adapted(model: Any) -> dict[str, torch.Tensor]:
    return {n: p for n, p in model.named_parameters() if "lora_" in n}


def train(model: Any, steps: int) -> list[float]:
    """Descend; returns the losses."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    # From the second step on, when B is no longer zero, both halves have one.
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters)
    return losses


@pytest.mark.parametrize("targets", [NAMED, "all-linear"], ids=str)
@pytest.mark.parametrize("kind", ["llama", "qwen2_moe", "gpt2"])
def test_an_adapter_is_trained_saved_and_loaded(
    kind: str, targets: Any, quantized_family: Family, tmp_path: Path
) -> None:
    if kind == "gpt2" and targets is NAMED:
        targets = ["c_attn"]
    folder = quantized_family(kind)
    base = fresh(folder)
    before = {n: t.clone() for n, t in base.state_dict().items()}
    expected = logits(base, IDS)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=targets))
    assert torch.equal(logits(model, IDS), expected)
    losses = train(model, 4)
    assert losses[-1] < losses[0]
    trained = logits(model, IDS)
    assert not torch.equal(trained, expected)
    with model.disable_adapter():
        assert torch.equal(logits(model, IDS), expected)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("model*.safetensors"))
    again = peft.PeftModel.from_pretrained(fresh(folder), tmp_path)
    assert torch.equal(logits(again, IDS), trained)
    through = fresh(folder)
    through.load_adapter(str(tmp_path))  # transformers' own way
    assert torch.equal(logits(through, IDS), trained)
    # The packed weights have not moved.
    bare = model.unload()
    after = bare.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], before[n]) for n in before)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_all_linear_means_the_layers_it_does_in_16_bit(kind: str, quantized_family: Family) -> None:
    def paths(model: Any) -> set[str]:
        config = peft.LoraConfig(r=2, target_modules="all-linear")
        return set(adapted(peft.get_peft_model(model, config)))

    packed = paths(fresh(quantized_family(kind)))
    assert packed == paths(make_model(kind))
    assert packed
    assert not any("lm_head" in name for name in packed)


def test_an_adapter_of_experts_is_refused_and_a_new_one_goes_without(
    quantized_family: Family, tmp_path: Path
) -> None:
    config = peft.LoraConfig(r=2, target_modules="all-linear")
    whole = peft.get_peft_model(make_model("mixtral"), config)
    assert any(".experts." in name for name in adapted(whole))
    whole.save_pretrained(tmp_path)
    folder = quantized_family("mixtral")
    with pytest.raises(UsageError, match=r"packed weights of experts, model.layers.0.mlp.experts"):
        peft.PeftModel.from_pretrained(fresh(folder), tmp_path)
    config = peft.LoraConfig(r=2, target_modules="all-linear")
    with pytest.warns(UserWarning, match="name packed experts.*are left out"):
        packed = peft.get_peft_model(fresh(folder), config)
    rest = {name for name in adapted(whole) if ".experts." not in name}
    assert set(adapted(packed)) == rest


@pytest.mark.parametrize("kind", ["llama", "qwen2_moe"])
def test_an_adapter_of_the_16_bit_model_fits(
    kind: str, quantized_family: Family, tmp_path: Path
) -> None:
    original = make_model(kind)
    config = peft.LoraConfig(r=4, target_modules=NAMED, init_lora_weights=False)
    whole = peft.get_peft_model(original, config)
    whole.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*targets name packed experts")
        packed = peft.PeftModel.from_pretrained(fresh(quantized_family(kind)), tmp_path)
    here, there = adapted(packed), adapted(whole)
    assert here.keys() == there.keys()
    assert all(torch.equal(here[n], there[n]) for n in here)
    with packed.disable_adapter():
        bare = logits(packed, IDS)
    changed = (logits(packed, IDS) - bare).norm()
    assert (logits(packed, IDS) - logits(whole, IDS)).norm() < changed


def test_packed_experts_take_no_adapters_and_that_is_said(quantized_family: Family) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "gate_proj"])
    with pytest.warns(UserWarning, match="name packed experts.*are left out"):
        model = peft.get_peft_model(fresh(quantized_family("qwen2_moe")), config)
    names = set(adapted(model))
    assert any("shared_expert.gate_proj" in name for name in names)
    assert not any(".experts." in name for name in names)
    assert bool(logits(model, IDS).isfinite().all())


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}]
)
def test_what_works_on_the_weight_is_refused(
    options: dict[str, Any], quantized_family: Family
) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], **options)
    with pytest.raises(UsageError, match="packed layers take plain LoRA, not"):
        peft.get_peft_model(fresh(quantized_family("llama")), config)


def test_merging_is_refused(quantized_family: Family) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    model = peft.get_peft_model(fresh(quantized_family("llama")), config)
    with pytest.raises(UsageError, match="cannot be merged into packed weights"):
        model.merge_and_unload()
    assert any(isinstance(m, QuantLinear) for m in model.modules())


def test_a_second_adapter_stands_beside_the_first(quantized_family: Family) -> None:
    model = fresh(quantized_family("llama"))
    first = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(model, first)
    expected = logits(model, IDS)
    other = peft.LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False)
    model.add_adapter("other", other)
    assert torch.equal(logits(model, IDS), expected)
    model.set_adapter("other")
    assert not torch.equal(logits(model, IDS), expected)


def test_the_trainer_of_transformers_trains_it(quantized_family: Family, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    options = TrainingArguments(
        str(tmp_path), max_steps=2, report_to=[], use_cpu=True, save_strategy="no"
    )
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    model = AutoModelForCausalLM.from_pretrained(quantized_family("llama"), dtype=torch.float32)
    with pytest.raises(ValueError, match="fine-tuning on purely quantized models"):
        Trainer(model, options, train_dataset=rows)
    model = peft.prepare_model_for_kbit_training(model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    before = {n: p.detach().clone() for n, p in adapted(model).items()}
    Trainer(model, options, train_dataset=rows).train()
    assert any(not torch.equal(p, before[n]) for n, p in adapted(model).items())
