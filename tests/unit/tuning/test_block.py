from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoround.core.rounding import dense_weight
from autoround.data.tokens import Tokens
from autoround.errors import AutoRoundError
from autoround.events import BlockDone, Event, Planned, StepDone
from autoround.model.skeleton import open_model
from autoround.pipeline import quantize_pass
from autoround.session.block_output import BlockOutput
from autoround.session.session import Session
from autoround.settings import LayerTuning, TuningSettings
from autoround.tuning.reconstruct import hyperparameters_for

from ...runs import NEAREST, logits, make_session, quantized, run_pass, same
from ...tiny import make_model, token_ids
from ...tiny_quantized import nearest

IDS = token_ids(4, 16)
DOWN = "model.layers.1.mlp.down_proj"


def outputs(job: Session) -> list[BlockOutput]:
    return run_pass(job)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_without_tuning_it_is_rounding_to_nearest(kind: str, sym: bool) -> None:
    model = make_model(kind)
    job = make_session(model, {**NEAREST, "scheme.sym": sym, "scheme.bits": 3})
    assert job.tokens is None
    weights = dict(model.named_parameters())
    found = quantized(job)
    assert len(found) == len(job.plan.blocks) * (7 if kind == "llama" else 4)
    for layer in (x for block in job.plan.blocks for x in block.layers):
        assert layer.scheme is not None
        weight = weights[layer.name + ".weight"].detach()
        wanted = nearest(weight.t() if layer.transposed else weight, layer.scheme)
        assert same({"": found[layer.name]}, {"": wanted})
        assert found[layer.name].scheme == layer.scheme


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_compensated_start_is_closer_than_the_nearest_levels(kind: str) -> None:
    values: dict[str, object] = {"tuning.iters": 0, "scheme.bits": 3}
    losses = {}
    for start in ("nearest", "gptq"):
        job = make_session(make_model(kind), {**values, "tuning.init_rounding": start}, data=IDS)
        first = outputs(job)[0].result
        losses[start] = first.loss_before
        assert first.loss_after == first.loss_before
    assert losses["gptq"] < 0.9 * losses["nearest"]


def test_a_compensated_start_needs_data_and_works_from_any_scales() -> None:
    values: dict[str, object] = {**NEAREST, "tuning.init_rounding": "gptq", "lm_head.bits": 4}
    job = make_session(make_model("llama"), values, data=IDS)
    assert job.tokens is not None
    found = outputs(job)
    assert found[-1].result.name == "outside the blocks"
    plain = quantized(make_session(make_model("llama"), NEAREST))
    for name, layer in plain.items():
        own = next(output.layers[name] for output in found if name in output.layers)
        assert torch.equal(own.scale, layer.scale)  # type: ignore[union-attr]
        assert not torch.equal(own.codes, layer.codes)  # type: ignore[union-attr]


def test_stacked_experts_start_at_the_nearest_level() -> None:
    values: dict[str, object] = {"tuning.iters": 0}
    one, other = (
        quantized(
            make_session(make_model("mixtral"), {**values, "tuning.init_rounding": start}, data=IDS)
        )
        for start in ("nearest", "gptq")
    )
    first = {name for name in one if "layers.0." in name}
    alike = {name for name in first if torch.equal(one[name].codes, other[name].codes)}
    assert {name for name in first if "experts" in name} == alike


def test_without_tuning_there_is_no_loss_to_report() -> None:
    for output in outputs(make_session(make_model("llama"), NEAREST)):
        assert math.isnan(output.result.loss_before)
        assert math.isnan(output.result.loss_after)
        assert (output.result.steps, output.result.best_step) == (0, 0)


def test_searched_scales_differ_from_the_min_max_ones_and_use_the_data() -> None:
    model = make_model("llama")
    plain = quantized(make_session(model, NEAREST))
    search = {"tuning.iters": 0, "tuning.init_scale": "search", "scheme.bits": 3}
    one = quantized(make_session(model, search, data=IDS))
    other = quantized(make_session(model, search, data=token_ids(4, 16, seed=1)))
    assert not same(plain, one)
    assert not same(one, other)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_tuning_lowers_the_loss_and_changes_codes(kind: str) -> None:
    model = make_model(kind)
    values = {"tuning.iters": 24, "tuning.init_scale": "minmax", "scheme.bits": 2}
    done = outputs(make_session(model, values, data=IDS))
    plain = quantized(make_session(model, {**NEAREST, "scheme.bits": 2}))
    for output in done:
        result = output.result
        assert 0 < result.loss_after < 0.9 * result.loss_before
        assert 0 < result.best_step <= result.steps == 24
        assert result.seconds > 0
        for name, layer in output.layers.items():
            assert layer.codes.dtype == torch.uint8
            assert int(layer.codes.max()) < 4
            assert layer.scale.dtype == torch.float16
            assert layer.zero.dtype == torch.uint8
            assert layer.codes.shape == plain[name].codes.shape
            assert not torch.equal(layer.codes, plain[name].codes)


def test_the_result_is_never_worse_than_the_start() -> None:
    # So large a step only does harm, and the start itself is then the best iterate.
    job = make_session(make_model("llama"), {"tuning.lr": 50.0, "tuning.iters": 2}, data=IDS)
    for output in outputs(job):
        assert output.result.loss_after <= output.result.loss_before


def test_only_the_seed_decides() -> None:
    model = make_model("llama")
    values = {"tuning.iters": 6, "tuning.init_scale": "minmax", "scheme.bits": 2}
    once, again = (quantized(make_session(model, values, data=IDS)) for _ in range(2))
    assert same(once, again)
    assert not same(once, quantized(make_session(model, {**values, "seed": 7}, data=IDS)))


def test_blocks_have_hyperparameters_of_their_own() -> None:
    settings = TuningSettings(seed=5, default=LayerTuning("nearest", 0.004, 0.5))
    each = [hyperparameters_for(settings, block) for block in (0, 1, 2)]
    assert [one.seed for one in each] == [5, 6, 7]
    assert (each[0].lr, each[0].minmax_lr) == (0.004, 0.5)
    for init_scale, ceiling in (("search", 2), ("minmax", 1)):
        settings = TuningSettings(init_scale=init_scale)
        assert hyperparameters_for(settings, 0).max_minmax_scale == ceiling


def test_recipes_settle_the_hyperparameters_of_a_block() -> None:
    model = make_model("llama")
    fixed = make_session(model, {"tuning.tune_minmax": False}, data=IDS).tuning
    assert hyperparameters_for(fixed, 0).minmax_lr == 0
    tuned = make_session(model, {"tuning.iters": 50}, data=IDS).tuning
    assert hyperparameters_for(tuned, 0).lr == pytest.approx(0.004)
    assert hyperparameters_for(tuned, 0).minmax_lr == pytest.approx(0.004)


def test_quantized_inputs_reach_the_second_block_only() -> None:
    model = make_model("llama")
    values = {"tuning.iters": 6, "tuning.init_scale": "minmax", "scheme.bits": 2}
    fed = outputs(make_session(model, values, data=IDS))
    clean = outputs(make_session(model, {**values, "tuning.quantized_inputs": False}, data=IDS))
    assert same(fed[0].layers, clean[0].layers)
    assert not same(fed[1].layers, clean[1].layers)
    # Errors of the first block come on top of those of the second.
    assert clean[1].result.loss_before < fed[1].result.loss_before


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("init", ["minmax", "search"])
def test_padding_does_not_matter(kind: str, init: str) -> None:
    model = make_model(kind)
    ragged = [row[:n].tolist() for row, n in zip(IDS, (16, 5, 11, 8), strict=True)]
    job = make_session(model, {"tuning.iters": 6, "tuning.init_scale": init}, data=ragged)
    assert job.tokens is not None
    assert job.tokens.padded
    assert "padded" in job.plan.calibration
    other = torch.where(job.tokens.mask, job.tokens.ids, torch.tensor(77))
    assert not torch.equal(other, job.tokens.ids)
    changed = dataclasses.replace(job, tokens=Tokens(other, job.tokens.lengths, "other padding"))
    one, two = outputs(job), outputs(changed)
    for a, b in zip(one, two, strict=True):
        assert same(a.layers, b.layers)
        assert a.result.loss_after == b.result.loss_after


def test_a_path_and_a_model_in_memory_give_the_same_codes(
    checkpoint: Callable[[str], Path],
) -> None:
    values = {"tuning.iters": 3}
    from_files = quantized(make_session(checkpoint("llama"), values, data=IDS))
    in_memory = quantized(make_session(make_model("llama"), values, data=IDS))
    assert same(from_files, in_memory)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_in_memory_is_not_changed(kind: str) -> None:
    model = make_model(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    hooks = {path: len(module._forward_pre_hooks) for path, module in model.named_modules()}
    quantized(make_session(model, data=IDS))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes
    assert hooks == {p: len(module._forward_pre_hooks) for p, module in model.named_modules()}
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("values", [NEAREST, {}])
def test_a_weight_that_is_no_number_is_named(bad: float, values: dict[str, object]) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.get_parameter(DOWN + ".weight")[3, 5] = bad
    job = make_session(model, values, data=IDS)
    with pytest.raises(AutoRoundError, match=rf"{DOWN}.* holds NaN"):
        quantized(job)


def test_a_model_that_overflows_says_which_block_and_what_to_do() -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.fill_(float("inf"))
    with pytest.raises(AutoRoundError, match=r"block model\.layers\.0: .*compute_dtype=float32"):
        quantized(make_session(model, {"tuning.init_scale": "minmax"}, data=IDS))


def test_kept_tensors_come_in_the_dtype_they_will_be_written_in() -> None:
    job = make_session(
        make_model("gpt2"), {"output.dtype": "bfloat16", "ignore": ["c_fc"]}, data=IDS
    )
    output = outputs(job)[0]
    path = "transformer.h.0"
    assert set(output.layers) == {
        f"{path}.{n}" for n in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")
    }
    assert set(output.kept) == {
        *(f"{path}.{n}.bias" for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
        *(f"{path}.ln_{i}.{part}" for i in (1, 2) for part in ("weight", "bias")),
        f"{path}.mlp.c_fc.weight",
    }
    assert {tensor.dtype for tensor in output.kept.values()} == {torch.bfloat16}


def test_a_block_with_nothing_to_quantize_is_passed_through() -> None:
    ignored = {"ignore": ["model.layers.0.*"]}
    first, second = outputs(make_session(make_model("llama"), ignored, data=IDS))
    assert first.layers == {}
    assert "model.layers.0.mlp.down_proj.weight" in first.kept
    assert math.isnan(first.result.loss_before)
    assert len(second.layers) == 7
    assert second.result.loss_before > 0


def test_the_last_batch_may_be_smaller() -> None:
    job = make_session(make_model("llama"), {"tuning.batch_size": 3}, data=IDS)
    assert [len(output.layers) for output in run_pass(job)] == [7, 7]


def test_only_one_block_is_read_at_a_time(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    skeleton = open_model(checkpoint("llama"))
    job = make_session(skeleton, NEAREST)
    read: list[str] = []
    source_read = skeleton.source.read

    def watch(names: list[str]) -> dict[str, torch.Tensor]:
        wanted = list(names)
        read.extend(wanted)
        return source_read(wanted)

    monkeypatch.setattr(skeleton.source, "read", watch)
    finished: list[list[str]] = []

    def deliver(output: BlockOutput) -> None:
        finished.append(list(read))
        read.clear()

    quantize_pass(job, deliver)
    for index, names in enumerate(finished):
        assert names
        assert all(name.startswith(f"model.layers.{index}.") for name in names)


def test_events_tell_of_every_step_and_block() -> None:
    events: list[Event] = []
    done = outputs(make_session(make_model("llama"), data=IDS, sink=events.append))
    assert isinstance(events[0], Planned)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [(e.block, e.step, e.steps) for e in steps] == [
        (block, step, 4) for block in (0, 1) for step in (1, 2, 3, 4)
    ]
    assert all(math.isfinite(event.loss) for event in steps)
    blocks = [event for event in events if isinstance(event, BlockDone)]
    assert [event.result for event in blocks] == [output.result for output in done]
    assert [event.blocks for event in blocks] == [2, 2]
    assert events.index(blocks[0]) == 5


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_loss_is_what_the_served_block_is_off_by(kind: str) -> None:
    model, served = make_model(kind), make_model(kind)
    done = outputs(
        make_session(model, {"tuning.iters": 6, "tuning.init_scale": "minmax"}, data=IDS)
    )
    with torch.no_grad():
        for name, layer in ((n, q) for output in done for n, q in output.layers.items()):
            weight = served.get_parameter(name + ".weight")
            weight.copy_(dense_weight(layer).t() if kind == "gpt2" else dense_weight(layer))
    for output in done:
        wanted = block_output(model, output.result.name)
        found = block_output(served, output.result.name)
        loss = float((found - wanted).square().mean())
        assert output.result.loss_after == pytest.approx(loss, rel=1e-4)


def block_output(model: torch.nn.Module, path: str) -> torch.Tensor:
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: object, out: object) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)  # type: ignore[arg-type]

    handle = model.get_submodule(path).register_forward_hook(keep)
    logits(model, IDS)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("inf"), "NaN or infinity"), (1e6, "a weight of 1e\\+06 is beyond")],
)
def test_values_that_no_grid_holds_are_refused(value: float, message: str) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.get_submodule(DOWN).weight[3, 5] = value  # type: ignore[index, operator]
    with pytest.raises(AutoRoundError, match=f"layer {DOWN}: .*{message}"):
        quantized(make_session(model, NEAREST))
