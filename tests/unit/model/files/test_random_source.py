from __future__ import annotations

import torch

from autoround.model.files.random_source import SPREAD, RandomSource


def test_shapes_and_dtypes_are_those_of_the_headers_and_numbers_are_random() -> None:
    headers = {
        "w": ((64, 32), torch.bfloat16),
        "codes": ((4, 4), torch.int32),
        "eight": ((8, 8), torch.float8_e4m3fn),
    }
    source = RandomSource(headers)
    tensors = source.read(headers)
    assert {n: (tuple(t.shape), t.dtype) for n, t in tensors.items()} == source.headers()
    assert 0.8 * SPREAD < float(tensors["w"].float().std()) < 1.2 * SPREAD
    assert not tensors["codes"].any()
