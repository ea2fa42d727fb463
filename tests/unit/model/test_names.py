"""Tensors are written under the names that a model's own checkpoints have."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoround.model.blocks import Matrix, decoder_blocks, matrices
from autoround.model.experts import ExpertTensor
from autoround.model.files.source import CheckpointSource
from autoround.model.names import default_experts, expert_files, files_of, template
from autoround.model.skeleton import Skeleton, adopt_model, open_model

from ...tiny import make_model, write_checkpoint
from ...zoo import make_model as make_family


def parts(skeleton: Skeleton) -> dict[str, tuple[str, ...]]:
    return {n: skeleton.names.experts(x) for n, x in skeleton.stacked.items()}


@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen3_moe", "gpt_oss", "qwen2_vl"])
def test_a_model_in_memory_has_the_names_that_its_files_would_have(
    kind: str, tmp_path: Path
) -> None:
    model = make_family(kind)
    model.save_pretrained(tmp_path)
    files = CheckpointSource(tmp_path).headers()
    saved, adopted = open_model(tmp_path), adopt_model(model)
    single = [name for name in saved.keys if name not in saved.stacked]
    assert single
    for name in single:
        assert saved.names.tensor(name) == adopted.names.tensor(name)
        assert saved.names.tensor(name) in files
    assert parts(saved) == parts(adopted)
    for name, tensor in saved.stacked.items():
        own = parts(saved)[name]
        assert saved.names.beside(tensor) in files
        for expert in range(tensor.count):
            assert all(f"{part.format(expert)}.weight" in files for part in own)


def test_experts_of_mixtral_are_called_as_mistral_calls_them() -> None:
    found = parts(adopt_model(make_model("mixtral")))
    prefix = "model.layers.1.block_sparse_moe.experts.{}"
    assert found["model.layers.1.mlp.experts.gate_up_proj"] == (f"{prefix}.w1", f"{prefix}.w3")
    assert found["model.layers.1.mlp.experts.down_proj"] == (f"{prefix}.w2",)


def test_experts_that_files_stack_get_names_by_number_beside_it() -> None:
    skeleton = adopt_model(make_family("gpt_oss"))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensor = skeleton.stacked[name]
    assert skeleton.names.experts(tensor) == ()
    assert expert_files(skeleton.names, tensor) == (
        "model.layers.0.mlp.experts.{}.gate_proj",
        "model.layers.0.mlp.experts.{}.up_proj",
    )


def test_a_stacked_weight_of_another_name_is_cut_where_the_class_has_it() -> None:
    own = ExpertTensor("model.mlp.experts.down_proj", 4, (8, 8), False, ("down_proj",), False)
    wanted = ("moe.experts.{}.down_proj",)
    assert default_experts(own, "moe.experts.down_proj") == wanted
    assert default_experts(own, "moe.output_linear.weight") == ("model.mlp.experts.{}.down_proj",)


def test_a_matrix_that_is_called_alike_everywhere_needs_no_name_of_files(tmp_path: Path) -> None:
    plain = open_model(write_checkpoint("llama", tmp_path / "llama"))
    for m in matrices(plain.model, decoder_blocks(plain.model)[0]):
        assert files_of(plain.names, m, plain.stacked) == ()
    other = open_model(write_checkpoint("mixtral", tmp_path / "mixtral"))
    found = {
        m.name: files_of(other.names, m, other.stacked)
        for m in matrices(other.model, "model.layers.0")
    }
    assert found["model.layers.0.mlp.gate"] == ("model.layers.0.block_sparse_moe.gate",)
    assert found["model.layers.0.self_attn.q_proj"] == ()
    assert len(found["model.layers.0.mlp.experts.gate_up_proj"]) == 2


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (["a.0.w.weight", "a.1.w.weight"], "a.{}.w"),
        ([f"l.7.e.{i}.w.weight" for i in range(12)], "l.7.e.{}.w"),
        (["a.0.w.weight"], ""),
        ([], ""),
        (["a.0.w.weight", "a.2.w.weight"], ""),
        (["a.1.w.weight", "a.0.w.weight"], ""),
        (["a.0.w.weight", "a.1.v.weight"], ""),
        (["a.0.w.weight", "a.1.b.w.weight"], ""),
        (["a.0.w.bias", "a.1.w.bias"], ""),
        (["a.0.w.weight", "b.1.w.weight", "a.2.w.weight"], ""),
    ],
)
def test_keys_have_a_module_in_common_but_for_the_number(keys: list[str], found: str) -> None:
    assert template(keys) == found


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("model.llm.layers.0.attn.wq.weight", ("model.llm.layers.0.attn.wq",)),
        ("model.layers.0.q_proj.weight", ()),
        # Packed parts of it would be called as no loader renames them.
        ("model.llm.layers.0.attn.forget_weight", ()),
        ("model.llm.layers.0.attn.weight_norm", ()),
    ],
)
def test_a_tensor_that_is_no_modules_weight_in_the_files_keeps_its_own_name(
    file: str, found: tuple[str, ...]
) -> None:
    class Files:
        def tensor(self, name: str) -> str:
            return {"model.layers.0.q_proj.weight": file}[name]

    matrix = Matrix("model.layers.0.q_proj", (4, 4), transposed=False, bias=False)
    assert files_of(Files(), matrix, {}) == found  # type: ignore[arg-type]
