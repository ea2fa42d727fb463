from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from autoround.errors import ModelError
from autoround.model.files import side_files as module
from autoround.model.files.hub import OTHER_SUBFOLDERS
from autoround.model.files.side_files import (
    hub_patterns,
    is_side_file,
    side_files,
)

#: Of folders on the hub: Llama, Mistral, Gemma, Qwen-VL, DeepSeek, GLM, sentence-transformers.
TAKEN = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tokenizer.model.v7m1",
    "tiktoken.model",
    "qwen.tiktoken",
    "tekken.json",
    "source.spm",
    "vocab.bpe",
    "bpe.codes",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "LICENSE",
    "LICENSE.txt",
    "License.md",
    "LICENCE",
    "MODEL_LICENSE",
    "LICENSE-MODEL",
    "Qwen LICENSE AGREEMENT.pdf",
    "NOTICE",
    "Notice.txt",
    "THIRD_PARTY_NOTICES.md",
    "USE_POLICY.md",
    "PROHIBITED_USE_POLICY.md",
    "Responsible-Use-Guide.pdf",
    "COPYING",
)
LEFT = (
    "config.json",
    "Config.json",
    "plan.json",
    "recipe.yaml",
    "README.md",
    ".gitattributes",
    "._tokenizer.json",
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "consolidated.safetensors",
    "consolidated.00.pth",
    "pytorch_model.bin",
    "model.pt",
    "model-q4.gguf",
    "training_args.bin",
    "license.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "model.safetensors.index.fp32.json",
    "consolidated.safetensors.index.json",
    "params.json",
    "adapter_config.json",
    "quantization_config.json",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "Quantize_Config.json",
    "measurement.json",
    "openvino_config.json",
    "genai_config.json",
    "modeling_custom.py",
    "license_check.py",
    "original/params.json",
    "original/tokenizer.model",
    "onnx/tokenizer.json",
    "additional_chat_templates/read.py",
    "additional_chat_templates/._rag.jinja",
    "additional_chat_templates/deeper/tool_use.jinja",
    "2_Dense/model.safetensors",
    "2_Dense/pytorch_model.bin",
)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", TAKEN)
def test_what_describes_the_model_is_taken(name: str) -> None:
    assert is_side_file(name)


@pytest.mark.parametrize("name", LEFT)
def test_weights_code_and_what_describes_other_weights_are_left(name: str) -> None:
    assert not is_side_file(name)


def test_a_folder_is_read_by_these_rules(tmp_path: Path) -> None:
    case_insensitive = (tmp_path / "x").touch() or (tmp_path / "X").exists()
    (tmp_path / "x").unlink()
    left = [n for n in LEFT if not (case_insensitive and n[0].isupper())]
    make(tmp_path, *TAKEN, *left)
    (tmp_path / "folder.json").mkdir()
    files = side_files(tmp_path)
    assert list(files) == sorted(TAKEN)
    assert all(path.read_text(encoding="utf-8") == name for name, path in files.items())


def test_each_tokenizer_file_of_transformers_is_taken() -> None:
    # Read as text: many of these classes need packages of their own to be imported.
    import transformers

    names: set[str] = set()
    for file in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)):
                continue
            if ast.unparse(node.targets[0]) == "VOCAB_FILES_NAMES":
                names.update(v.value for v in node.value.values if isinstance(v, ast.Constant))
    assert {"tokenizer.json", "vocab.txt", "merges.txt", "source.spm"} < names
    assert {name for name in names if not is_side_file(name)} == set()


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    make(tmp_path, "tokenizer.json")
    (tmp_path / "vocab.json").symlink_to("tokenizer.json")
    files = side_files(tmp_path)
    assert files["vocab.json"] == (tmp_path / "tokenizer.json").resolve()


def test_a_snapshot_of_the_hub_links_to_the_blobs_of_its_model(tmp_path: Path) -> None:
    model = make(tmp_path / "models--o--n", "blobs/11", "blobs/22")
    snapshot = model / "snapshots" / "abc"
    (snapshot / "additional_chat_templates").mkdir(parents=True)
    (snapshot / "tokenizer.json").symlink_to("../../blobs/11")
    (snapshot / "additional_chat_templates" / "rag.jinja").symlink_to("../../../blobs/22")
    files = side_files(snapshot)
    assert {name: path.name for name, path in files.items()} == {
        "tokenizer.json": "11",
        "additional_chat_templates/rag.jinja": "22",
    }
    make(tmp_path / "models--o--other", "blobs/33")
    (snapshot / "vocab.json").symlink_to("../../../models--o--other/blobs/33")
    with pytest.raises(ModelError, match=r"vocab\.json is a link that leads out"):
        side_files(snapshot)


def test_a_folder_that_is_a_link_itself_is_no_way_out(tmp_path: Path) -> None:
    make(tmp_path / "model", "tokenizer.json")
    (tmp_path / "link").symlink_to("model")
    assert list(side_files(tmp_path / "link")) == ["tokenizer.json"]


@pytest.mark.parametrize("link", ["LICENSE", "additional_chat_templates"])
def test_a_link_that_leads_out_is_refused_with_where_to(tmp_path: Path, link: str) -> None:
    make(tmp_path, "outside/secret", "outside/tool_use.jinja", "model/tokenizer.json")
    target = tmp_path / "outside" / ("secret" if link == "LICENSE" else "")
    (tmp_path / "model" / link).symlink_to(target)
    with pytest.raises(ModelError, match=r"leads out of the model's folder, to .*outside") as error:
        side_files(tmp_path / "model")
    assert "put a copy of the file there, or remove the link" in str(error.value)


def test_a_link_to_nothing_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").symlink_to("gone")
    (tmp_path / "NOTICE").symlink_to("NOTICE")
    assert side_files(tmp_path) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="no sparse files without more ado")
def test_a_file_too_large_to_be_one_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "train.json").open("wb") as file:
        file.truncate(module.MAX_SIDE_FILE_BYTES)
    assert list(side_files(tmp_path)) == ["train.json"]
    with (tmp_path / "train.json").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match=r"train\.json is larger than 512 MiB.*: move it out"):
        side_files(tmp_path)


def test_all_of_them_are_fetched_from_the_hub() -> None:
    from huggingface_hub.utils import filter_repo_objects

    names = [*TAKEN, "model-00001-of-00002.safetensors", "config.json", *LEFT]
    fetched = set(
        filter_repo_objects(
            names, allow_patterns=hub_patterns(), ignore_patterns=list(OTHER_SUBFOLDERS)
        )
    )
    assert {*TAKEN, "config.json", "model.safetensors.index.json"} <= fetched
    assert "model-00001-of-00002.safetensors" not in fetched
    not_read = {"consolidated.safetensors", "original/params.json", "2_Dense/model.safetensors"}
    assert fetched.isdisjoint({*not_read, "pytorch_model.bin", "modeling_custom.py"})
    # The card says under what terms a model may be used; it goes into no output.
    assert "README.md" in fetched
    assert not is_side_file("README.md")
