"""Tensors that stay in float32: wider than the rest, or by the class's own list."""

from __future__ import annotations

from typing import Any

import torch

from autoround.model.wide import kept_by_class, main_dtype, wide_tensors

BF16, F16, F32, F64, I64 = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.int64,
)


class Keeping:
    """A class that never loads some modules in 16 bit."""

    _keep_in_fp32_modules_strict = ("e_score_correction_bias", "mixer.gate")


def headers(**dtypes: torch.dtype) -> dict[str, Any]:
    return {name: ((64, 64) if name.startswith("w") else (64,), d) for name, d in dtypes.items()}


def test_the_main_dtype_is_that_of_most_weights_not_of_most_tensors() -> None:
    assert main_dtype(headers(w=BF16, a=F32, b=F32, c=I64)) == BF16
    assert main_dtype(headers(c=I64)) is None
    assert main_dtype({}) is None


def test_what_is_wider_than_the_rest_stays() -> None:
    assert wide_tensors(object(), headers(w=BF16, a=F32, b=F16, c=F64, d=I64)) == {"a", "c"}
    assert wide_tensors(object(), headers(w=F16)) == frozenset()


def test_where_all_is_float32_the_class_says_what_stays() -> None:
    all_wide = {
        "layers.0.mlp.gate.e_score_correction_bias": ((8,), F32),
        "layers.0.mixer.gate.weight": ((8, 8), F32),
        "layers.0.mixer.gateway.weight": ((8, 8), F32),
        "w": ((64, 64), F32),
    }
    assert wide_tensors(Keeping(), all_wide) == set(all_wide) - {
        "w",
        "layers.0.mixer.gateway.weight",
    }
    assert wide_tensors(object(), all_wide) == frozenset()


def test_entries_are_whole_steps_of_a_path() -> None:
    keeps = kept_by_class(Keeping())
    assert keeps("a.e_score_correction_bias")
    assert not keeps("a.e_score_correction_bias_2")
    assert not kept_by_class(object())("anything")
