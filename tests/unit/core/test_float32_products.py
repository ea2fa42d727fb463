"""What float32 products are made of is settled for a while, whichever switch the user has set."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from autoround.core.float32_products import EXACT, SHORT, float32_products

CPU = torch.device("cpu")


@pytest.mark.parametrize("before", [EXACT, SHORT])
@pytest.mark.parametrize("wanted", [EXACT, SHORT])
def test_the_older_switch_is_put_back(before: str, wanted: str) -> None:
    def fail() -> None:
        with float32_products(wanted, CPU):
            assert torch.get_float32_matmul_precision() == wanted
            raise KeyError

    torch.set_float32_matmul_precision(before)
    try:
        with pytest.raises(KeyError):
            fail()
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(EXACT)


NEWER = """
import torch
from autoround.core.float32_products import EXACT, SHORT, float32_products
matmul = torch.backends.cuda.matmul
matmul.fp32_precision = "tf32"
try:
    torch.get_float32_matmul_precision()
except RuntimeError:
    print("refused")
for words in (EXACT, SHORT):
    with float32_products(words, torch.device("cuda", 0)):
        print(matmul.fp32_precision)
print(matmul.fp32_precision)
"""


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has one switch alone"
)
def test_the_newer_switches_are_used_where_they_were_set() -> None:
    # What was set stays mixed for the process, so it has one of its own.
    done = subprocess.run(
        [sys.executable, "-c", NEWER], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["refused", "ieee", "tf32", "tf32"]
