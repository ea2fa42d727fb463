"""What a run takes around its blocks: figures that were measured once, on one core.

Seconds of the processor as counted here and as measured, for matrices and weights that are
quantized: 42 of 14 M together 0.9 and 0.6, 112 of 14 M 1.5 and 1.3, 210 of 106 M 4.9 and 5.1, 14 of
103 M 2.6 and 2.8, 280 of 5 M 3.0 and 3.7; SmolLM2-135M as `gguf:q4_0` 13.4 and 12.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from autoround.formats.registry import format_of, layout_named
from autoround.types import LayerPlan, OutputPlan, Plan

#: Seconds of opening and closing the folder of a format.
FOLDER_SECONDS = 0.1
#: Of one reading of all that is quantized and a run of it in float32: seconds of each matrix, and
#: weights a second.
MATRIX_SECONDS, CHECK_RATE = 0.005, 100e6
#: Bytes of files that are written, and read again, in a second.
BYTE_RATE = 200e6
#: Of a GGUF file: seconds of each token of the vocabulary, whose text the `gguf` package reads and
#: writes one by one, and weights outside the blocks that are rounded in a second.
TOKEN_SECONDS, ROUND_RATE = 1.6e-4, 10e6
#: Seconds of loading a model for the gate: so many for the start, and bytes a second.
LOAD_SECONDS, LOAD_RATE = 3.0, 40e6
#: Bytes of records and activation streams that are put on the disk for good in a second.
JOURNAL_RATE = 300e6


def tail_seconds(plan: Plan, disk_bytes: float) -> float:
    """Return the seconds of a pass behind its blocks: writing the rest, and reading all back.

    Args:
        plan: of the pass.
        disk_bytes: that the pass writes.
    """
    return disk_bytes / BYTE_RATE + sum(_format_seconds(plan, output) for output in plan.outputs)


def load_seconds(source_bytes: float) -> float:
    """Return the seconds of loading the result and the original for a gate.

    Args:
        source_bytes: of the original's tensors.
    """
    return LOAD_SECONDS + source_bytes / LOAD_RATE


def _format_seconds(plan: Plan, output: OutputPlan) -> float:
    """Return the seconds that one format takes beside its bytes."""
    gguf = bool(format_of(output).gguf_types)
    # What is packed is read as files, then loaded as a user does it.
    packed = not gguf and not layout_named(output.packing).dense
    quantized = list(_layers_with_scheme(plan))
    matrices = sum(max(1, layer.experts) * layer.parts for layer in quantized)
    weights = sum(math.prod(layer.shape) for layer in quantized)
    check = MATRIX_SECONDS * matrices + weights / CHECK_RATE
    seconds = FOLDER_SECONDS + (2 if packed else 1) * check
    if gguf:
        outside = [layer.shape for layer in plan.kept]
        vocabulary = max((rows for rows, _ in outside), default=0)
        seconds += TOKEN_SECONDS * vocabulary + sum(map(math.prod, outside)) / ROUND_RATE
    return seconds


def _layers_with_scheme(plan: Plan) -> Iterator[LayerPlan]:
    return (layer for layer in plan.layers if layer.scheme is not None)
