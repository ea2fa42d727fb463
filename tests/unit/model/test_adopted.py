"""Models as callers have them: each gives the result of the plain one, or is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from torch import Tensor, nn

from autoround.api import quantize
from autoround.errors import AutoRoundError, ModelError
from autoround.events import BlockDone
from autoround.export.dense_copy import copy_with_weights
from autoround.model.adopted import OffloadedSource, copy_modules, unwrap
from autoround.model.skeleton import adopt_model

from ...runs import even_device, logits, make_session, quantized, run_pass, same, small
from ...tiny import make_model, token_ids

__all__ = ["even_device"]
IDS = token_ids(4, 16)


def compiled_block(model: Any) -> Any:
    model.model.layers[0] = torch.compile(model.model.layers[0])
    return model


def compiled_in_place(model: Any) -> Any:
    model.model.layers[1].compile()
    return model


def training(model: Any) -> Any:
    """Put some modules in training mode, with dropout."""
    for block in model.model.layers:
        block.self_attn.attention_dropout = 0.5
    model.train()
    model.lm_head.eval()
    return model


WAYS: dict[str, Callable[[Any], Any]] = {
    "compiled": torch.compile,
    "one block compiled": compiled_block,
    "compiled in place": compiled_in_place,
    "for several devices": nn.DataParallel,
    "compiled and for several": lambda model: nn.DataParallel(torch.compile(model)),  # type: ignore[arg-type]
    "training": training,
    "in memory, offloaded": cpu_offload,
}


def state_of(model: nn.Module) -> list[tuple[Any, ...]]:
    """Return all that a run could change: each module's own attributes and mode, by its path."""
    return [
        (
            path,
            type(module),
            module.training,
            *sorted(module.__dict__),
            module.__dict__.get("forward"),
        )
        for path, module in model.named_modules()
    ]


@pytest.fixture(scope="module")
def plain() -> Any:
    return make_model("llama")


@pytest.mark.parametrize("way", WAYS)
def test_a_model_in_any_state_gives_the_codes_of_the_plain_one(way: str, plain: Any) -> None:
    expected = quantized(make_session(copy.deepcopy(plain), data=IDS))
    model = WAYS[way](copy.deepcopy(plain))
    before, weights = state_of(model), {n: id(p) for n, p in model.named_parameters()}
    layers = quantized(make_session(model, data=IDS))
    assert same(layers, expected)
    assert state_of(model) == before
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == weights


def test_a_model_on_the_disk_is_read_from_there(plain: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(plain)
    disk_offload(model, offload_dir=tmp_path / "weights")
    assert all(parameter.is_meta for parameter in model.parameters())
    skeleton = adopt_model(model)
    wanted = plain.state_dict()
    assert {**skeleton.keys, **skeleton.tied}.keys() == wanted.keys()
    for name in skeleton.keys:
        assert torch.equal(skeleton.read([name])[name], wanted[name]), name
    assert torch.equal(logits(copy_with_weights(skeleton), IDS), logits(plain, IDS))
    # The caller's model still runs, from the disk.
    torch.testing.assert_close(logits(model, IDS), logits(plain, IDS))


def test_tied_weights_stay_tied_when_they_are_offloaded() -> None:
    original = make_model("gpt2")
    model = copy.deepcopy(original)
    cpu_offload(model)
    skeleton = adopt_model(model)
    assert skeleton.tied == {"lm_head.weight": "transformer.wte.weight"}
    assert torch.equal(logits(copy_with_weights(skeleton), IDS), logits(original, IDS))


def test_a_missing_offloaded_weight_is_named(plain: Any) -> None:
    source = OffloadedSource(copy.deepcopy(plain).to("meta"), {"model": {}})
    with pytest.raises(ModelError, match=r"model\.norm\.weight is not among the offloaded"):
        source.read(["model.norm.weight"])
    assert source.holds("model.norm.weight")
    assert not source.holds("lm_head.weight")


def test_names_in_files_are_those_of_the_model(plain: Any, tmp_path: Path) -> None:
    from safetensors import safe_open

    for name, model in (("plain", plain), ("wrapped", torch.compile(nn.DataParallel(plain)))):
        quantize(model, small(), output_dir=tmp_path / name, data=IDS, device="cpu")
    files = [tmp_path / name / "model.safetensors" for name in ("plain", "wrapped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with safe_open(files[1], framework="pt") as opened:
        assert not any(key.startswith(("_orig_mod", "module")) for key in opened.keys())  # noqa: SIM118


def test_modes_are_the_callers_after_an_error_too(plain: Any) -> None:
    model = training(copy.deepcopy(plain))
    before = state_of(model)

    def fail(event: object) -> None:
        if isinstance(event, BlockDone):
            raise AutoRoundError("stop")

    session = make_session(model, data=IDS, sink=fail)
    with pytest.raises(AutoRoundError, match="stop"):
        run_pass(session)
    assert state_of(model) == before


def test_a_forward_of_the_callers_own_is_kept(plain: Any) -> None:
    """A block may be patched; the copy runs what the caller would run."""
    model = copy.deepcopy(plain)
    calls: list[int] = []
    block = model.model.layers[0]
    forward = block.forward

    def patched(*args: Any, **named: Any) -> Any:
        calls.append(1)
        return forward(*args, **named)

    block.forward = patched
    quantized(make_session(model, data=IDS))
    assert calls
    assert block.__dict__["forward"] is patched


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_any_floating_point_type_is_read_as_it_is(dtype: torch.dtype, plain: Any) -> None:
    skeleton = adopt_model(copy.deepcopy(plain).to(dtype))
    assert {skeleton.header(name)[1] for name in skeleton.keys} == {dtype}
    assert len(quantized(make_session(skeleton, data=IDS))) == 14


def test_types_may_differ(plain: Any) -> None:
    model = copy.deepcopy(plain)
    model.model.norm.to(torch.float64)
    model.model.layers[0].to(torch.float16)
    assert len(quantized(make_session(model, data=IDS))) == 14


def replaced(model: Any, module: nn.Module) -> Any:
    model.model.layers[0].mlp.up_proj = module
    return model


def stand_in(package: str, name: str, base: type = nn.Linear) -> Any:
    """Return a class as that package would define it."""
    return type(name, (base,), {"__module__": f"{package}.modules"})


def injected(model: Any) -> Any:
    layer = stand_in("peft.tuners.lora", "Linear", nn.Module)()
    layer.base_layer = model.model.layers[0].mlp.up_proj
    return replaced(model, layer)


def wrapped_by_peft(model: Any) -> Any:
    outer = stand_in("peft", "PeftModel", nn.Module)()
    outer.base_model, outer.config = model, model.config
    return outer


def lora_by_hand(model: Any) -> Any:
    model.model.layers[0].mlp.lora_A = nn.Linear(64, 1)
    return model


def without_numbers(model: Any) -> Any:
    return model.to("meta")


def integers(model: Any) -> Any:
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(torch.zeros(96, 64, dtype=torch.int8), requires_grad=False)
    return model


def uncopied(model: Any) -> Any:
    model.stream = (number for number in range(3))
    return model


def sharded(model: Any) -> Any:
    model.lm_head.weight.ds_id = 0
    return model


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "peft": (wrapped_by_peft, r"PeftModel has adapters .*: merge them by merge_and_unload\(\)"),
    "injected": (injected, r"has adapters \(at model\.layers\.0\.mlp\.up_proj, a Linear\)"),
    "lora by hand": (lora_by_hand, "has adapters"),
    "bitsandbytes": (
        lambda model: replaced(model, stand_in("bitsandbytes.nn", "Linear4bit")(64, 96)),
        r"already quantized \(model\.layers\.0\.mlp\.up_proj is a Linear4bit\); .* 16-bit original",
    ),
    "our own": (
        lambda model: replaced(model, stand_in("autoround.inference", "QuantLinear")(64, 96)),
        "already quantized",
    ),
    "integers": (integers, r"already quantized \(model\.layers\.0\.mlp\.up_proj\.weight is int8\)"),
    "meta": (without_numbers, r"has no weights \(\d+ tensors are on meta.*: load it by from_pre"),
    "sharded": (sharded, r"sharded over processes \(lm_head\.weight\): save it"),
    "uncopied": (uncopied, r"cannot be copied \(.*generator.*\): save it with save_pretrained\(\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_refused_with_what_to_do(case: str, plain: Any) -> None:
    spoil, message = REFUSED[case]
    model = spoil(copy.deepcopy(plain))
    with pytest.raises(ModelError, match=message):
        adopt_model(model)


def test_a_tensor_of_a_quantizer_is_refused(plain: Any) -> None:
    class Packed(Tensor):
        __module__ = "torchao.dtypes"

    model = copy.deepcopy(plain)
    weight = model.lm_head.weight.detach()
    model.lm_head._parameters["weight"] = weight.as_subclass(Packed)
    with pytest.raises(ModelError, match=r"already quantized \(lm_head\.weight is a Packed\)"):
        adopt_model(model)


def test_a_plain_model_is_its_own_inside() -> None:
    model = nn.Linear(2, 2)
    assert unwrap(model) is model
    plain, source = copy_modules(model)
    assert plain is not model
    assert plain.weight is model.weight
    assert source.headers()["weight"] == ((2, 2), torch.float32)


def test_tensors_of_a_graph_that_a_module_keeps_are_shared() -> None:
    model = nn.Linear(2, 2)
    model.last = model(torch.ones(1, 2))  # type: ignore[assignment]
    plain, _ = copy_modules(model)
    assert plain.last is model.last
