"""Stacked experts are found by their shapes, and cut into the matrices that files have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoround.model.experts import GATED_PARTS, ExpertTensor, expert_tensors, stacked_in

from ...tiny import HIDDEN, make_model
from ...zoo import make_model as make_family

COUNT, OUT, IN = 3, 24, 16


class Experts(nn.Module):
    """Parameters of given shapes under given names."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], **attributes: bool) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        for name, value in attributes.items():
            setattr(self, name, value)


def found_in(
    shapes: dict[str, tuple[int, ...]], *, hidden: int = IN, **attributes: bool
) -> dict[str, ExpertTensor]:
    return {x.name: x for x in stacked_in(Experts(shapes, **attributes), "", hidden)}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_parts_that_are_cut_out_are_stacked_to_the_same_tensor(
    transposed: bool, interleaved: bool
) -> None:
    own = ExpertTensor("e", COUNT, (OUT, IN), transposed, GATED_PARTS, interleaved)
    whole = torch.randn(COUNT, OUT, IN).half()
    parts = {(p, e): whole[e, own.rows(p)] for p in range(2) for e in range(COUNT)}
    assert all(part.shape == (OUT // 2, IN) for part in parts.values())
    stored = own.merge(parts)
    assert stored.is_contiguous()
    assert stored.dtype == torch.float16
    assert torch.equal(stored, whole.transpose(1, 2) if transposed else whole)


@pytest.mark.parametrize(("drop", "add"), [((1, 2), None), ((0, 0), None), (None, (1, COUNT))])
def test_a_stack_is_whole_or_an_error(
    drop: tuple[int, int] | None, add: tuple[int, int] | None
) -> None:
    own = ExpertTensor("e", COUNT, (OUT, IN), False, GATED_PARTS, False)
    parts = {(p, e): torch.ones(OUT // 2, IN) for p in range(2) for e in range(COUNT)}
    if drop is not None:
        del parts[drop]
    if add is not None:
        parts[add] = torch.ones(OUT // 2, IN)
    words = "one too many" if drop is None else "missing"
    with pytest.raises(KeyError, match=words):
        own.merge(parts)


def test_rows_of_parts_take_turns_or_follow_each_other() -> None:
    rows = list(range(6))
    for interleaved, wanted in ((False, [[0, 1, 2], [3, 4, 5]]), (True, [[0, 2, 4], [1, 3, 5]])):
        own = ExpertTensor("e", 1, (6, 8), False, GATED_PARTS, interleaved)
        assert [rows[own.rows(part)] for part in (0, 1)] == wanted
    assert rows[ExpertTensor("e", 1, (6, 8), False, ("down_proj",), False).rows(0)] == rows


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_oss", "llama4_text", "qwen3_vl_moe"])
def test_matrices_of_real_families_go_from_the_hidden_width_and_back(kind: str) -> None:
    stacked = expert_tensors(make_family(kind))
    assert stacked
    for name, tensor in stacked.items():
        gated = name.endswith("gate_up_proj")
        assert tensor.shape[1 if gated else 0] == HIDDEN
        assert tensor.parts == (GATED_PARTS if gated else ("down_proj",))
        # transformers interleaves those of GPT-OSS alone.
        assert tensor.interleaved == (gated and kind == "gpt_oss")
        assert tensor.transposed == (kind in ("gpt_oss", "llama4_text"))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_the_second_part_is_what_the_activation_is_multiplied_with(kind: str) -> None:
    """Its sign is the output's, whatever the gate."""
    layer = make_family(kind).model.layers[0].mlp
    hidden = torch.randn(1, 5, HIDDEN)
    before = output(layer, hidden)
    negate_rows(layer.experts.gate_up_proj, expert_tensors_of(layer, "gate_up_proj"), part=1)
    torch.testing.assert_close(output(layer, hidden), -before)


@torch.no_grad()
def test_the_first_part_of_rows_that_take_turns_is_the_gate() -> None:
    layer = make_family("gpt_oss").model.layers[0].mlp
    layer.experts.gate_up_proj_bias.zero_()
    layer.experts.down_proj_bias.zero_()
    gated = expert_tensors_of(layer, "gate_up_proj")
    hidden = torch.randn(1, 5, HIDDEN)
    weight = layer.experts.gate_up_proj
    own = weight.transpose(1, 2) if gated.transposed else weight
    kept = own.clone()
    own[:, gated.rows(1)] = 0
    assert output(layer, hidden).any()
    own.copy_(kept)
    own[:, gated.rows(0)] = 0
    assert not output(layer, hidden).any()


def output(layer: nn.Module, hidden: Tensor) -> Tensor:
    found = layer(hidden)
    out: Tensor = found[0] if isinstance(found, tuple) else found
    return out


def expert_tensors_of(layer: nn.Module, name: str) -> ExpertTensor:
    experts = layer.experts
    assert isinstance(experts, nn.Module)
    return {x.name: x for x in stacked_in(experts, "", HIDDEN)}[name]


def negate_rows(weight: Tensor, tensor: ExpertTensor, *, part: int) -> None:
    own = weight.transpose(1, 2) if tensor.transposed else weight
    own[:, tensor.rows(part)] *= -1


def test_a_module_that_says_nothing_is_read_by_its_shapes() -> None:
    plain = found_in({"gate_up_proj": (COUNT, 2 * OUT, IN), "down_proj": (COUNT, IN, OUT)})
    turned = found_in({"gate_up_proj": (COUNT, IN, 2 * OUT), "down_proj": (COUNT, OUT, IN)})
    for found, transposed in ((plain, False), (turned, True)):
        assert [(x.shape, x.transposed, x.count) for x in found.values()] == [
            ((2 * OUT, IN), transposed, COUNT),
            ((IN, OUT), transposed, COUNT),
        ]
    alone = found_in({"gate_up_proj": (COUNT, IN, 2 * OUT)})
    assert alone["gate_up_proj"].shape == (2 * OUT, IN)


def test_what_a_module_says_of_itself_comes_before_shapes() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "gate_up_proj": (COUNT, 2 * OUT, IN),
        "down_proj": (COUNT, IN, OUT),
    }
    found = found_in(shapes, is_transposed=True, is_concatenated=False)
    assert found["gate_up_proj"].shape == (IN, 2 * OUT)
    assert found["gate_up_proj"].interleaved
    assert not found["down_proj"].interleaved


@pytest.mark.parametrize(
    "shapes",
    [
        {"weight": (OUT, IN)},
        {"scale": (COUNT, OUT, 4)},
        {"scale": (COUNT, 7, IN)},
        {"one": (COUNT, OUT, IN), "other": (COUNT + 1, OUT, IN)},
        {"kernel": (2, 2, OUT, IN)},
    ],
)
def test_other_parameters_are_no_experts(shapes: dict[str, tuple[int, ...]]) -> None:
    assert found_in(shapes) == {}


def test_a_convolution_is_no_expert_and_neither_is_anything_of_a_dense_model() -> None:
    assert stacked_in(nn.Conv1d(16, 16, 8), "conv", 16) == []
    assert expert_tensors(make_model("llama")) == {}
