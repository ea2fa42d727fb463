"""What a model folder holds, read from its headers alone: sizes for work and for bits."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Name of a tensor inside a decoder block: prefix, number, rest.
INSIDE = re.compile(r"^(.*?\b(?:layers|h|blocks))\.(\d+)\.(.+)$")
#: Tensors that formats keep in the place of one quantized weight, by what they hold.
HELD = {
    "qweight": "codes",
    "weight_packed": "codes",
    "scales": "scales",
    "weight_scale": "scales",
    "qzeros": "zeros",
    "weight_zero_point": "zeros",
    "g_idx": "other",
    "perm": "other",
    "weight_shape": "other",
}


@dataclass(frozen=True)
class Geometry:
    """matrices: (out, in) of one block's linear layers. attention: width of all query heads."""

    blocks: int
    prefix: str
    matrices: tuple[tuple[int, int], ...]
    hidden: int
    vocabulary: int
    attention: int

    @property
    def block_weights(self) -> int:
        """Weights in the matrices of one block."""
        return sum(out * inner for out, inner in self.matrices)


def headers(folder: Path) -> dict[str, dict[str, Any]]:
    """Return shape and bytes of every tensor in a folder's safetensors files."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            entries = json.loads(stream.read(length))
        for name, entry in entries.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                found[name] = {"shape": entry["shape"], "bytes": end - start}
    return found


def geometry(folder: Path) -> Geometry:
    """Read the sizes of a 16-bit model folder.

    Raises:
        SystemExit: no decoder block is found in it.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config = config.get("text_config", config)
    tensors = headers(folder)
    inside = [(m, t) for name, t in tensors.items() if (m := INSIDE.match(name))]
    if not inside:
        raise SystemExit(f"{folder} has no tensors named like those of decoder blocks")
    first = [t["shape"] for m, t in inside if int(m[2]) == 0 and m[3].endswith(".weight")]
    heads = config.get("num_attention_heads") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    return Geometry(
        blocks=1 + max(int(m[2]) for m, _ in inside),
        prefix=inside[0][0][1],
        matrices=tuple((s[0], s[1]) for s in first if len(s) == 2),
        hidden=hidden,
        vocabulary=config.get("vocab_size", 0),
        attention=heads * (config.get("head_dim") or hidden // heads),
    )


def stored_bits(folder: Path, original: Path) -> dict[str, float]:
    """Count the bits of a written folder, everything in it included.

    bpw: bits a quantized weight, its scales, zero points and indices included; codes_bpw,
    scales_bpw, zeros_bpw, other_bpw: its parts. kept_share: share of the model's weights that
    is kept in 16 bit. model_bpw: bits of all tensors over all weights.
    """
    whole = {name: math.prod(t["shape"]) for name, t in headers(original).items()}
    parts = {"codes": 0, "scales": 0, "zeros": 0, "other": 0}
    quantized: set[str] = set()
    total = 0
    for name, tensor in headers(folder).items():
        total += tensor["bytes"]
        layer, _, leaf = name.rpartition(".")
        if leaf in HELD and layer + ".weight" in whole:
            parts[HELD[leaf]] += tensor["bytes"]
            quantized.add(layer + ".weight")
    weights = sum(whole[name] for name in quantized)
    everything = sum(whole.values())
    found = {"model_bpw": round(8 * total / everything, 4)}
    found["kept_share"] = round(1 - weights / everything, 4)
    if weights:
        found["bpw"] = round(8 * sum(parts.values()) / weights, 4)
        found |= {f"{key}_bpw": round(8 * size / weights, 4) for key, size in parts.items()}
    return found


def fingerprint(folder: Path) -> str:
    """Return a short mark of a model folder's contents: names, shapes and sizes, and a sample."""
    import hashlib

    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(-min(1 << 20, file.stat().st_size), 2)
            digest.update(stream.read())
    return digest.hexdigest()[:8]
