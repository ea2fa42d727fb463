"""Bytes that the clients' own code packed: ours must be equal, or the reason written down.

The files are made by tools/clients/golden.py in the clients' environments. A client and this
program agree wherever both can say what they are given. They differ on a zero point of 0 in
version 1 of GPTQ's layout, which stores the zero point minus one and so has no way to say 0;
the last tests here hold what each client makes of it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from autoround.errors import FormatError
from autoround.formats.gptq.layout import AUTO_ROUND_V1, AUTO_ROUND_V2
from autoround.types import QuantizedTensor, Scheme

from ...packed import from_tensors, to_tensors

V1, PLAIN = AUTO_ROUND_V1.name, AUTO_ROUND_V2.name
FOLDER = Path(__file__).parents[2] / "golden"
CLIENTS = ("auto-round", "gptqmodel", "compressed-tensors")


class Case(NamedTuple):
    """One layer in one packing: what went into a client's packer, and what came out."""

    layer: QuantizedTensor
    packing: str
    parts: dict[str, Tensor]

    @property
    def can_be_said(self) -> bool:
        return self.packing not in ("gptq", "auto_round:auto_gptq") or bool(self.layer.zero.all())


@cache
def cases(client: str) -> dict[str, Case]:
    with safe_open(FOLDER / f"{client}.safetensors", framework="pt") as opened:
        layers = json.loads(opened.metadata()["layers"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    found: dict[str, Case] = {}
    for name, tensor in tensors.items():
        layer, *packing, part = name.split("/")
        if not packing:
            continue
        scheme = Scheme(*(layers[layer][key] for key in ("bits", "group_size", "sym")))
        given = (tensors[f"{layer}/{key}"] for key in ("codes", "scale", "zero"))
        case = Case(QuantizedTensor(*given, scheme), packing[0], {})
        found.setdefault(f"{layer} {packing[0]}", case).parts[part] = tensor
    return found


AGREED = [(c, name) for c in CLIENTS for name, case in cases(c).items() if case.can_be_said]


def equal(one: Tensor, other: Tensor) -> bool:
    """Compare bit for bit; torch.equal alone lets dtypes differ."""
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def test_the_files_hold_what_they_should() -> None:
    bits = {client: {c.layer.scheme.bits for c in cases(client).values()} for client in CLIENTS}
    assert bits == {
        "auto-round": {2, 3, 4, 5, 6, 7, 8},
        "gptqmodel": {2, 3, 4, 8},
        "compressed-tensors": {2, 3, 4, 5, 6, 7, 8},
    }
    packings = {client: {c.packing for c in cases(client).values()} for client in CLIENTS}
    assert packings == {
        "auto-round": {"auto_round", "auto_round:auto_gptq", "auto_round:auto_awq", "gptq"},
        "gptqmodel": {"gptq", "gptq_v2", "awq"},
        "compressed-tensors": {"pack-quantized"},
    }
    for client in CLIENTS:
        for case in cases(client).values():
            layer, top = case.layer, 2**case.layer.scheme.bits - 1
            assert set(layer.codes.flatten().tolist()) >= {0, top}
            assert bool((layer.scale < 0).any())
            if not layer.scheme.sym:
                assert int(layer.zero.max()) == top
                assert int(layer.zero.min()) in (0, 1)
    assert len(AGREED) > 90


def test_groups_that_do_not_divide_the_inputs_are_among_them() -> None:
    short = {
        (client, case.packing, case.layer.scheme.bits)
        for client, name in AGREED
        for case in (cases(client)[name],)
        if case.layer.codes.shape[1] % max(1, case.layer.scheme.group_size)
    }
    wanted = {("auto-round", packing, bits) for packing in (V1, PLAIN) for bits in range(2, 9)}
    wanted |= {
        ("gptqmodel", packing, bits) for packing in ("gptq", "gptq_v2") for bits in (2, 3, 4, 8)
    }
    assert wanted <= short


@pytest.mark.parametrize(("client", "name"), AGREED)
def test_our_bytes_are_the_clients(client: str, name: str) -> None:
    layer, packing, parts = cases(client)[name]
    ours = to_tensors(layer, packing)
    assert ours.keys() == parts.keys()
    assert [part for part in parts if not equal(ours[part], parts[part])] == []


@pytest.mark.parametrize(("client", "name"), AGREED)
def test_we_read_the_integers_that_the_client_was_given(client: str, name: str) -> None:
    layer, packing, parts = cases(client)[name]
    back = from_tensors(parts, layer.scheme, packing=packing, name=name)
    assert equal(back.codes, layer.codes)
    assert equal(back.scale, layer.scale)
    assert equal(back.zero, layer.zero)
    assert back.scheme == layer.scheme


@pytest.mark.parametrize("client", ["auto-round", "gptqmodel"])
def test_we_refuse_to_say_what_version_1_cannot(client: str) -> None:
    unsaid = [case for case in cases(client).values() if not case.can_be_said]
    assert unsaid
    for case in unsaid:
        with pytest.raises(FormatError, match="cannot hold a zero point of 0"):
            to_tensors(case.layer, case.packing)


@pytest.mark.parametrize("bits", [3, 4])
def test_auto_round_turns_zero_points_of_0_into_1(bits: int) -> None:
    # Such groups of its files are a level off their weights, whoever reads them.
    layer, packing, parts = cases("auto-round")[f"w{bits}g32-from0-32x64 auto_round:auto_gptq"]
    back = from_tensors(parts, layer.scheme, packing=packing, name="a")
    assert torch.equal(back.codes, layer.codes)
    assert torch.equal(back.zero, layer.zero.clamp(min=1))


def test_auto_round_lets_zero_points_of_0_wrap_in_six_bits() -> None:
    # Its own readers add 1 to 63 and do not wrap; what was meant is read here.
    layer, packing, parts = cases("auto-round")["w6g32-from0-32x64 auto_round:auto_gptq"]
    back = from_tensors(parts, layer.scheme, packing=packing, name="a")
    assert torch.equal(back.zero, layer.zero)


@pytest.mark.parametrize("bits", [3, 4])
def test_zero_points_of_0_that_gptqmodel_wrote(bits: int) -> None:
    layer, packing, parts = cases("gptqmodel")[f"w{bits}g32-from0-32x64 gptq"]
    back = from_tensors(parts, layer.scheme, packing=packing, name="a")
    assert torch.equal(back.zero, layer.zero)
