from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoround.errors import ModelError
from autoround.model.runner import BlockRunner
from autoround.model.skeleton import Skeleton, adopt_model, open_model

from ...tiny import HIDDEN, KINDS, TinyBlock, TinyModel, make_model, token_ids

Checkpoint = Callable[[str], Path]
CPU = torch.device("cpu")


def make_runner(skeleton: Skeleton, dtype: torch.dtype = torch.float32) -> BlockRunner:
    return BlockRunner(skeleton, device=CPU, dtype=dtype)


def block_weights(skeleton: Skeleton, runner: BlockRunner, index: int) -> dict[str, Tensor]:
    path = skeleton.blocks[index]
    tensors = skeleton.read(skeleton.names_under(path))
    inside = {name.removeprefix(path + "."): tensor for name, tensor in tensors.items()}
    return runner.place(inside) | runner.buffers(index)


def run_all(skeleton: Skeleton, runner: BlockRunner, ids: Tensor) -> list[Tensor]:
    """Return the first block's inputs and every block's outputs."""
    hidden = [runner.embed(ids)]
    with torch.no_grad():
        for i in range(len(skeleton.blocks)):
            weights = block_weights(skeleton, runner, i)
            hidden.append(runner.run(i, weights, hidden=hidden[-1]))
    return hidden


@torch.no_grad()
def model_states(model: nn.Module, blocks: tuple[str, ...], ids: Tensor) -> list[Tensor]:
    """Return what the model itself gives its first block, and what every block returns.

    Hooks see the last block's output before the final norm, as hidden_states does not.
    """
    states: list[Tensor] = []

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        if not states:
            states.append(args[0] if args else kwargs["hidden_states"])
        states.append(out[0] if isinstance(out, tuple) else out)

    handles = [
        model.get_submodule(block).register_forward_hook(hook, with_kwargs=True) for block in blocks
    ]
    output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    for own, listed in zip(states[:-1], output.hidden_states[:-1], strict=True):
        assert torch.equal(own, listed)
    return states


def load_original(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_run_as_in_the_model_itself(kind: str, checkpoint: Checkpoint) -> None:
    skeleton = open_model(checkpoint(kind))
    ids = token_ids(3, 24)
    runner = make_runner(skeleton)
    runner.prepare(ids)
    own = run_all(skeleton, runner, ids)
    expected = model_states(load_original(checkpoint(kind)), skeleton.blocks, ids)
    assert len(own) == len(expected) == KINDS[kind].count + 1
    for i, (got, wanted) in enumerate(zip(own, expected, strict=True)):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6, msg=f"state {i}")
        # Blocks that did next to nothing would agree by themselves.
        assert i == 0 or float((wanted - expected[i - 1]).abs().mean()) > 0.05


def own_state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return all that modules hold besides parameters and children."""
    return {name: dict(module.__dict__) for name, module in model.named_modules()}


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "bloom"])
def test_nothing_stays_on_the_model(kind: str, checkpoint: Checkpoint) -> None:
    skeleton = open_model(checkpoint(kind))
    before = own_state(skeleton.model)
    buffers = {name: b.clone() for name, b in skeleton.model.named_buffers()}
    runner = make_runner(skeleton)
    ids = token_ids(2, 16)
    runner.prepare(ids)
    run_all(skeleton, runner, ids)
    after = own_state(skeleton.model)
    for name, attributes in before.items():
        assert after[name].keys() == attributes.keys(), name
        assert "forward" not in after[name]
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            assert not after[name][hooks]
    assert all(p.is_meta for p in skeleton.model.parameters())
    assert all(torch.equal(b, buffers[name]) for name, b in skeleton.model.named_buffers())


def test_nothing_stays_on_the_model_when_it_fails() -> None:
    class Failing(TinyModel):
        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
            super().forward(input_ids[:, :1])
            raise RuntimeError("after the blocks")

    class Broken(TinyModel):
        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
            self.layers[0](self.embed(input_ids))
            raise RuntimeError("between the blocks")

    # The blocks are all that matters: what comes after them is not run.
    failing = adopt_model(Failing())
    assert make_runner(failing).embed(token_ids(1, 4)).shape == (1, 1, HIDDEN)
    broken = adopt_model(Broken())
    with pytest.raises(ModelError, match="block by block: between"):
        make_runner(broken).embed(token_ids(1, 4))
    assert all("forward" not in m.__dict__ for m in broken.model.modules())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_a_model_in_memory_runs_alike_and_is_not_changed(kind: str, checkpoint: Checkpoint) -> None:
    model = load_original(checkpoint(kind))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = token_ids(2, 16)
    expected = model_states(model, adopt_model(model).blocks, ids)
    skeleton = adopt_model(model)
    runner = make_runner(skeleton)
    runner.prepare(ids)
    for got, wanted in zip(run_all(skeleton, runner, ids), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("kind", ["llama", "mistral", "bloom"])
def test_a_runner_serves_batches_of_any_size(kind: str, checkpoint: Checkpoint) -> None:
    skeleton = open_model(checkpoint(kind))
    ids = token_ids(5, 16)
    runner = make_runner(skeleton)
    runner.prepare(ids)
    whole = run_all(skeleton, runner, ids)
    runner.release()
    for part in (slice(0, 4), slice(4, 5)):
        for got, wanted in zip(run_all(skeleton, runner, ids[part]), whole, strict=True):
            torch.testing.assert_close(got, wanted[part], rtol=1e-5, atol=1e-5)


def test_blocks_take_other_weights_for_one_call(checkpoint: Checkpoint) -> None:
    skeleton = open_model(checkpoint("llama"))
    ids = token_ids(2, 8)
    runner = make_runner(skeleton)
    runner.prepare(ids)
    hidden = runner.embed(ids)
    weights = block_weights(skeleton, runner, 0)
    plain = runner.run(0, weights, hidden=hidden)
    zeroed = {name: torch.zeros_like(w) for name, w in weights.items() if w.dim() == 2}
    # A block whose matrices are zero passes its input on.
    assert torch.equal(runner.run(0, weights | zeroed, hidden=hidden), hidden)
    assert torch.equal(runner.run(0, weights, hidden=hidden), plain)
    assert not torch.allclose(plain, hidden)


def test_gradients_reach_the_weights_given(checkpoint: Checkpoint) -> None:
    skeleton = open_model(checkpoint("qwen2"))
    ids = token_ids(2, 8)
    runner = make_runner(skeleton)
    runner.prepare(ids)
    weights = block_weights(skeleton, runner, 1)
    tuned = {name: w.requires_grad_() for name, w in weights.items() if w.dim() == 2}
    runner.run(1, weights, hidden=runner.embed(ids)).square().mean().backward()
    assert len(tuned) == 7
    for name, weight in tuned.items():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_blocks_run_in_bfloat16(kind: str, checkpoint: Checkpoint) -> None:
    skeleton = open_model(checkpoint(kind))
    ids = token_ids(2, 16)
    runner = make_runner(skeleton, torch.bfloat16)
    runner.prepare(ids)
    own = run_all(skeleton, runner, ids)
    assert {h.dtype for h in own} == {torch.bfloat16}
    original = load_original(checkpoint(kind), torch.bfloat16)
    for got, wanted in zip(own, model_states(original, skeleton.blocks, ids), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)


def test_place_casts_only_floating_point_tensors(checkpoint: Checkpoint) -> None:
    runner = make_runner(open_model(checkpoint("llama")), torch.bfloat16)
    placed = runner.place({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.int64)})
    assert placed["a"].dtype == torch.bfloat16
    assert placed["b"].dtype == torch.int64


def test_buffers_in_the_checkpoint_are_the_checkpoints(checkpoint: Checkpoint) -> None:
    # Those of an empty model have their initial values.
    skeleton = open_model(checkpoint("apertus"))
    runner = make_runner(skeleton)
    assert runner.buffers(0) == {}
    name = "model.layers.0.mlp.act_fn.beta"
    expected = make_model("apertus").state_dict()[name]
    assert torch.equal(block_weights(skeleton, runner, 0)["mlp.act_fn.beta"], expected)
    assert not torch.equal(skeleton.model.state_dict()[name], expected)


def test_buffers_in_no_checkpoint_are_the_models() -> None:
    model = TinyModel()
    model.layers[1].register_buffer("table", torch.arange(3), persistent=False)
    model.layers[1].register_buffer("learned", torch.arange(4))
    runner = make_runner(adopt_model(model))
    assert runner.buffers(0) == {}
    assert {name: b.tolist() for name, b in runner.buffers(1).items()} == {"table": [0, 1, 2]}


class Minding(TinyBlock):
    """A block that minds what it is given beside its hidden states."""

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Tensor:
        out: Tensor = self.fc(hidden)
        for other in (*others, *named.values()):
            out = out + (other[0] if isinstance(other, tuple) else other.unsqueeze(-1).float())
        return out


class Mindful(TinyModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Minding() for _ in range(2))


class ByKeyword(Mindful):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden: Tensor = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, rare=input_ids > 64)
        return hidden


class ByPosition(Mindful):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden: Tensor = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, (self.embed(input_ids), None))
        return hidden


class Between(TinyModel):
    """Adds something to the stream between its blocks, as some do with what an image gave."""

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden: Tensor = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden) + self.embed(input_ids)
        return hidden


class Scaling(TinyModel):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden: Tensor = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden * 3)
        return hidden


class Constant(TinyModel):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden: Tensor = self.embed(input_ids)
        for layer in self.layers:
            positions = torch.arange(input_ids.shape[1])
            hidden = layer(hidden, positions, mask=None, cache={"positions": [positions]})
        return hidden


class Skipping(TinyModel):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden: Tensor = self.layers[0](self.embed(input_ids))
        return hidden


class Tuples(TinyModel):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden: Tensor = self.embed(input_ids)
        for layer in self.layers:
            outputs = layer(hidden)
            if not isinstance(outputs, tuple):
                raise TypeError("this model's blocks return tuples")
            hidden = outputs[0]
        return hidden


@pytest.mark.parametrize("model", [ByKeyword, ByPosition, Between])
def test_what_depends_on_the_tokens_is_given_by_sample(model: type[TinyModel]) -> None:
    skeleton = adopt_model(model())
    runner = make_runner(skeleton)
    ids = token_ids(4, 8)
    runner.prepare(ids)
    hidden = runner.embed(ids)
    with torch.no_grad():
        expected = skeleton.model(ids)
    rows = torch.tensor([2, 0, 3])
    out = hidden[rows]
    for index in range(2):
        out = runner.run(index, block_weights(skeleton, runner, index), hidden=out, rows=rows)
    if model is Between:
        out = out + hidden[rows]  # after the last block, which is the head's affair
    torch.testing.assert_close(out, expected[rows])
    with pytest.raises(ModelError, match="differently for each sample"):
        runner.run(0, block_weights(skeleton, runner, 0), hidden=hidden)


def test_what_a_model_does_between_blocks_must_be_an_addition() -> None:
    runner = make_runner(adopt_model(Scaling()))
    with pytest.raises(ModelError, match="other than by addition"):
        runner.prepare(token_ids(2, 8))


@pytest.mark.parametrize("model", [Constant, Tuples])
def test_other_arguments_and_tuples_are_fine(model: type[TinyModel]) -> None:
    skeleton = adopt_model(model())
    runner = make_runner(skeleton)
    ids = token_ids(3, 8)
    runner.prepare(ids)
    states = run_all(skeleton, runner, ids)
    built = skeleton.model
    assert isinstance(built, TinyModel)
    expected = built.layers[1](built.layers[0](built.embed(ids)))
    torch.testing.assert_close(states[-1], expected)


def test_blocks_that_are_not_all_run_are_refused() -> None:
    with pytest.raises(ModelError, match=r"does not run its 2 blocks .* only 1 were reached"):
        make_runner(adopt_model(Skipping())).embed(token_ids(1, 4))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_head_answers_as_the_model_does(kind: str) -> None:
    model = make_model(kind)
    skeleton = adopt_model(model)
    runner = make_runner(skeleton)
    ids = token_ids(2, 12)
    runner.prepare(ids)
    last = run_all(skeleton, runner, ids)[-1]
    with torch.no_grad():
        wanted = model(input_ids=ids, use_cache=False).logits
        outer = runner.outer()
        found = torch.cat([runner.head(outer, part) for part in last.split(5, dim=1)], dim=1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
