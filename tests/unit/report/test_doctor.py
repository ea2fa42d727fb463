"""Reports written out by hand; tests/unit/device/test_doctor.py shows those of real devices."""

from __future__ import annotations

from autoround.device.doctor import BackendReport, DeviceReport, KernelReport, Report
from autoround.report.doctor import doctor_lines

CARD = DeviceReport(
    name="gpu:0",
    type="cuda",
    gflops={"bfloat16": 45_000.0, "float32": 500.0},
    memory_total=24_000_000_000,
    memory_free=20_000_000_000,
    notes=("two fans",),
    slower=("no compiler",),
    checked=True,
    problem="",
)
REPORT = Report(
    versions={"torch": "2.9", "triton": ""},
    system="Linux",
    backends=(
        BackendReport("gpu", True, False, "a card", (CARD,)),
        BackendReport("xpu", False, False, "no driver", ()),
        BackendReport("theirs", False, True, "ImportError", ()),
    ),
    kernels=(
        KernelReport("fast", True, False, "found", ("cuda",)),
        KernelReport("torch", True, True, "always", ()),
    ),
    auto="gpu:0",
)


def test_a_report_in_words() -> None:
    assert doctor_lines(REPORT) == [
        "torch 2.9, no triton",
        "Linux",
        "",
        "devices",
        "  gpu      a card",
        "    gpu:0: bfloat16 45.0 TFLOP/s, float32 500 GFLOP/s; computes in bfloat16",
        "      24.0 GB of memory, 20.0 GB free",
        "      two fans",
        "      its operations agree with plain torch on the CPU",
        "  xpu      not here: no driver",
        "  theirs   broken: ImportError",
        "  --device auto takes gpu:0",
        "",
        "kernels for packed layers ('autoround kernels MODEL' says more)",
        "  fast         cannot be used, for cuda, none of which is here: found",
        "  torch        can be used, for any device: always",
        "",
        "slower than it could be: gpu:0: no compiler",
        "broken: backend theirs: ImportError",
        "every device that is here computes what plain torch computes",
    ]


def test_nothing_that_computes() -> None:
    lines = doctor_lines(Report({}, "here", (), (), ""))
    assert "  --device auto finds nothing" in lines
    assert lines[-1] == "problem: no backend can run here"
