"""Files of a model beside its weights and config: tokenizer, processor, generation, licence.

What is taken is listed by name, in any case of letters; what describes other weights (their
index, how another program quantized or compiled them) is left. Code and weights are never taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from autoround.errors import ModelError

#: Tokenizers, processors, chat templates, generation.
_DESCRIBING = (
    "*.json",
    "*.txt",
    "*.jinja",
    "*.model",
    "*.model.v[0-9]*",  # tokenizer.model.v3, .v7m1: Mistral's
    "*.tiktoken",
    "*.tokenizer",
    "*.spm",
    "*.bpe",
    "*.codes",
    "additional_chat_templates/*.jinja",
    "[0-9]_*/config.json",  # 1_Pooling, 2_Normalize: modules of sentence-transformers
)
#: Under what terms a model may be used.
_TERMS = (
    "*licen[cs]e*",
    "copying*",
    "copyright*",
    "*notice*",
    "*use_policy*",
    "*use-policy*",
    "*usage_policy*",
    "*use-guide*",
)
#: Files among them that this run writes itself, or that describe other weights.
_LEFT = (
    ".*",
    "*/.*",
    "config.json",
    "plan.json",
    "run.json",
    "allocation.json",
    "evaluation.json",
    "generations.json",
    "*.index.json",
    "*.index.*.json",  # model.safetensors.index.fp32.json
    "params.json",  # of consolidated*.safetensors and .pth
    "adapter_config.json",
    "*quant*.json",  # quantize_config, quant_config, hf_quant_config, quantization_config
    "qconfig.json",
    "measurement.json",  # exllamav2
    "kv_cache_scales.json",
    "openvino_config.json",
    "genai_config.json",  # of ONNX files, as the next
    "ort_config.json",
    "mlc-chat-config.json",
    "ndarray-cache.json",  # of MLC's weights, as the next
    "tensor-cache.json",
)
#: What terms of use are never written in: code, weights, archives.
_NEVER = (
    *(".py", ".pyc", ".so", ".sh", ".exe"),
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5"),
    *(".msgpack", ".npy", ".npz", ".onnx", ".pkl", ".pickle", ".zip", ".tar", ".gz"),
)
#: A tokenizer of a million entries takes a tenth of this.
MAX_SIDE_FILE_BYTES = 512 << 20


def side_files(folder: Path) -> dict[str, Path]:
    """Find the files that go with a model whatever its weights are.

    Links are followed within the folder, and from a snapshot of the hub's cache to the blobs of
    the same model.

    Args:
        folder: of the model.

    Returns:
        Files without links in them, by their names in the folder, with ``/`` between the parts.

    Raises:
        ModelError: a link leads elsewhere, or a file is too large to be one of these.
    """
    names = (path.relative_to(folder).as_posix() for path in _candidates(folder))
    return {name: _real_file(folder, name) for name in sorted(names) if is_side_file(name)}


def is_side_file(name: str) -> bool:
    """Tell by a file's name in its folder whether it goes with a model whatever its weights are.

    Args:
        name: with ``/`` between the parts.
    """
    lowered = name.lower()
    if lowered.endswith(_NEVER) or _fits(lowered, _LEFT):
        return False
    return _fits(lowered, _DESCRIBING) or _fits(lowered, _TERMS)


def hub_patterns() -> list[str]:
    """Return patterns of all that is read of a model on the hub beside its weights."""
    # The card is no side file: it says whose model this is, and is not copied.
    return [*_DESCRIBING, *map(_any_case, _TERMS), "README.md"]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """Tell whether a name fits one of the patterns, none of whose wildcards takes a slash."""
    depth = name.count("/")
    return any(p.count("/") == depth and fnmatchcase(name, p) for p in patterns)


def _candidates(folder: Path) -> list[Path]:
    """Return the files of a folder, and those in the folders of it that patterns name."""
    deeper = [path for pattern in _DESCRIBING if "/" in pattern for path in folder.glob(pattern)]
    return [path for path in (*folder.iterdir(), *deeper) if path.is_file()]


def _real_file(folder: Path, name: str) -> Path:
    """Return where a file really is, or refuse it."""
    path = folder / name
    root, real = folder.resolve(), path.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    if not any(real.is_relative_to(allowed) for allowed in roots):
        raise ModelError(
            f"{path} is a link that leads out of the model's folder, to {real}: put a copy of the "
            "file there, or remove the link"
        )
    if real.stat().st_size > MAX_SIDE_FILE_BYTES:
        raise ModelError(
            f"{path} is larger than {MAX_SIDE_FILE_BYTES >> 20} MiB, too large to belong to a "
            "tokenizer or a licence: move it out of the model's folder"
        )
    return real


def _any_case(pattern: str) -> str:
    """Write a pattern so that it fits letters of both cases, where case counts."""
    written, inside = "", False
    for letter in pattern:
        inside = (inside or letter == "[") and letter != "]"
        both = letter + letter.upper() if letter.isalpha() else letter
        written += both if inside or len(both) == 1 else f"[{both}]"
    return written
