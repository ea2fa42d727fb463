"""Which kernel runs which layer of a model is told before any weight is read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoround.device.kernels import kernels
from autoround.errors import ModelError, UsageError
from autoround.inference.kernels import advise, explain, installed, quant_layers
from autoround.inference.load import load
from autoround.model.files.source import CheckpointSource
from autoround.types import Scheme

from ...tiny_quantized import write_quantized

CPU = torch.device("cpu")
W4, W3 = Scheme(4, 32, True), Scheme(3, 16, False)


def mixed(name: str) -> Scheme | None:
    return None if "v_proj" in name else W3 if "mlp" in name else W4


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    write_quantized(checkpoint("llama"), tmp_path / "out", mixed)
    return tmp_path / "out"


def test_layers_are_counted_by_scheme_and_kernel_and_no_weight_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointSource, "read", None)
    shares = explain(folder, device=CPU, dtype=torch.float32, backend="torch")
    assert {share.scheme: share.layers for share in shares} == {W4: 6, W3: 6}
    assert {share.scheme: share.weights for share in shares} == {
        W4: 2 * (64 * 64 * 2 + 32 * 64),
        W3: 2 * 3 * 64 * 96,
    }
    assert {share.kernel for share in shares} == {"torch"}
    assert not any(share.ordered for share in shares)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_what_is_explained_is_what_is_loaded(folder: Path, backend: str) -> None:
    shares = explain(folder, device=CPU, dtype=torch.float32, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(folder, device="cpu", dtype=torch.float32, backend=backend)
    found = dict(quant_layers(model))
    assert len(found) == 12
    by_scheme = {share.scheme: share.kernel for share in shares}
    assert all(layer.kernel == by_scheme[layer.scheme] for layer in found.values())


def test_every_kernel_has_its_verdict(folder: Path) -> None:
    assert installed() == kernels()
    for share in explain(folder, device=CPU, dtype=torch.float32):
        assert len(share.verdicts) == len(installed())


def test_what_cannot_be_explained_is_refused(
    folder: Path, checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(ModelError, match="is not quantized: its config has no"):
        explain(checkpoint("llama"), device=CPU, dtype=torch.float32)
    with pytest.raises(UsageError, match="no-such-kernel"):
        explain(folder, device=CPU, dtype=torch.float32, backend="no-such-kernel")


def test_who_named_a_kernel_is_told_nothing(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        advise(load(folder, device="cpu", dtype=torch.float32, backend="torch"))
        advise(torch.nn.Linear(2, 2))
