from __future__ import annotations

from autoround.device.kernels import RegisteredKernel, Verdict, kernels
from autoround.device.protocol import Availability
from autoround.inference.kernels import Share
from autoround.report.kernels import installed_lines, share_lines
from autoround.types import Scheme

SHARE = Share(
    scheme=Scheme(4, 128, True),
    ordered=False,
    layers=14,
    weights=2_500_000,
    kernel="native",
    verdicts=(
        Verdict("native", True, "", 2e-6),
        Verdict("torch", True, "", 9e-6),
        Verdict("triton", False, "for cuda, xpu only"),
    ),
    faster=("fast-kernels",),
)


def test_kernels_that_are_registered() -> None:
    (torch,) = (entry for entry in kernels() if entry.name == "torch")
    broken = RegisteredKernel("theirs", None, Availability(False, "ImportError: no libtheirs.so"))
    lines = installed_lines([torch, broken])
    assert lines[0].startswith("torch        any device: can be used here (")
    assert lines[1] == (
        "theirs       any device: cannot be used here (ImportError: no libtheirs.so)"
    )


def test_what_runs_what_and_why() -> None:
    assert share_lines([SHARE], device="cpu") == [
        "W4 g128 sym: 14 layers, 2.5 M weights on cpu: native",
        "    native       chosen, 2 µs a row when timed",
        "    torch        can, and is slower, 9 µs a row when timed",
        "    triton       not: for cuda, xpu only",
        "faster, if installed: pip install fast-kernels",
    ]


def test_a_package_is_named_once() -> None:
    lines = share_lines([SHARE, SHARE], device="cpu")
    assert sum(line.startswith("faster") for line in lines) == 1
    assert lines[-1].startswith("faster")
