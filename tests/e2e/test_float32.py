"""A checkpoint with float32 tensors beside bfloat16 keeps them: on disk, in tuning, when loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround import api
from autoround.events import Event, Planned
from autoround.inference.load import load

from ..runs import NEAREST, even_device, small, tensors_of
from ..tiny import token_ids
from ..zoo import make_model

__all__ = ["even_device"]
BIAS = "e_score_correction_bias"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepSeek-V3 in bfloat16 whose routers' biases differ by less than bfloat16 can tell."""
    path = tmp_path_factory.mktemp("model") / "deepseek"
    make_model("deepseek_v3").bfloat16().save_pretrained(path)
    file = path / "model.safetensors"
    tensors = load_file(file)
    for name in tensors:
        if name.endswith(BIAS):
            count = tensors[name].numel()
            tensors[name] = 7.0 + torch.arange(count, dtype=torch.float32) * 1e-3
    save_file(tensors, file, metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("format", ["auto_round", "auto_gptq", "compressed-tensors", "fake"])
def test_they_are_written_as_they_were(folder: Path, tmp_path: Path, format: str) -> None:
    planned: list[Planned] = []

    def sink(event: Event) -> None:
        if isinstance(event, Planned):
            planned.append(event)

    values = {"output.format": format, "output.dtype": "auto", "tuning.compute_dtype": "bfloat16"}
    api.quantize(
        folder, small(values), output_dir=tmp_path / "out", data=token_ids(4, 16), sink=sink
    )
    plan = planned[0].plan
    assert plan.computed_in_float32 == plan.stored_in_float32
    biases = [name for name in plan.stored_in_float32 if name.endswith(BIAS)]
    assert biases
    source, out = load_file(folder / "model.safetensors"), tensors_of(tmp_path / "out")
    for name in biases:
        assert out[name].dtype == torch.float32
        assert torch.equal(out[name], source[name])
    assert {t.dtype for n, t in out.items() if n.endswith("layernorm.weight")} <= {
        torch.bfloat16,
        torch.float16,
    }
    if format != "fake":
        loaded = load(tmp_path / "out", device="cpu", backend="torch", dtype=torch.bfloat16)
        state = loaded.state_dict()
        assert all(torch.equal(state[name], source[name]) for name in biases)


def test_the_plan_says_so(folder: Path, make_tokens: Callable[[], torch.Tensor]) -> None:
    from autoround.report.plan import plan_lines

    plan, estimate = api.plan(folder, small({"output.dtype": "auto"}), data=make_tokens())
    lines = [line for line in plan_lines(plan, estimate) if line.startswith("keep float32")]
    assert len(lines) == 1
    assert BIAS in lines[0]
    assert "wider than the rest of the checkpoint" in lines[0]


@pytest.fixture
def make_tokens() -> Callable[[], torch.Tensor]:
    return lambda: token_ids(4, 16)


@pytest.mark.parametrize(
    ("format", "dtype"), [("auto_awq", torch.float16), ("auto_round", torch.bfloat16)]
)
def test_a_float32_model_is_rounded_to_the_written_dtype_at_once(
    tmp_path: Path, format: str, dtype: torch.dtype
) -> None:
    model = make_model("llama")
    for name, tensor in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.normal_(tensor, 1.0, 0.1)
    model.save_pretrained(tmp_path / "model")
    values = {**NEAREST, "output.format": format, "output.dtype": "auto"}
    api.quantize(tmp_path / "model", small(values), output_dir=tmp_path / "out")
    out = tensors_of(tmp_path / "out")
    norms = {n: t for n, t in model.state_dict().items() if n.endswith("norm.weight")}
    assert norms
    for name, tensor in norms.items():
        assert torch.equal(out[name], tensor.to(dtype)), name
