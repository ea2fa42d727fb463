"""Let MLX quantize small weights, and keep what it packed for the tests.

    VENV/bin/python tools/clients/golden_mlx.py tests/golden/mlx.npz

Runs in an environment with the package ``mlx`` and needs nothing of this project.
"""

from __future__ import annotations

import sys
from typing import Any

import mlx.core as mx
import numpy as np


def main() -> None:
    """Save words, scales, biases and MLX's own dequantized weights for every width."""
    found: dict[str, Any] = {}
    for bits in (2, 3, 4, 5, 6, 8):
        for size in (32, 64, 128):
            weight = np.random.default_rng(bits * size).normal(size=(5, 256)).astype(np.float16)
            words, scales, biases = mx.quantize(mx.array(weight), group_size=size, bits=bits)
            back = mx.dequantize(
                words,
                scales.astype(mx.float32),
                biases.astype(mx.float32),
                group_size=size,
                bits=bits,
            )
            name = f"w{bits}g{size}"
            found[f"{name}.weight"] = np.array(words)
            found[f"{name}.scales"] = np.array(scales)
            found[f"{name}.biases"] = np.array(biases)
            found[f"{name}.dense"] = np.array(back)
    np.savez_compressed(sys.argv[1], **found)


if __name__ == "__main__":
    main()
