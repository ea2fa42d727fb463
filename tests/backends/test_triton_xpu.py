"""Our Triton kernels compiled for Intel GPUs, where Triton has its compiler; nothing is run."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from .machine_code import compiled

pytest.importorskip("triton", reason="triton is not installed")

#: Kernels of tuning, of the scale search and of packed products.
KERNELS = {
    *("fake_quantize", "backward", "quantize", "sign_step", "gptq_block"),
    *("search", "fit_minima", "correct", "few_rows", "many_rows"),
}
#: The compiler asks the driver's library for the device's name, for which there is no other need.
COMPILE = """
import json, sys, types
import triton
import triton.language as tl
from triton.backends import backends
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from autoround_backends import _triton_linear, _triton_search, _triton_tuning
known = types.SimpleNamespace(parse_device_arch=lambda number: "")
backends["intel"].compiler.__init__.__globals__["compile_module_from_src"] = lambda *a, **k: known
card = {"architecture": 0, "max_work_group_size": 1024, "max_num_sub_groups": 64,
        "sub_group_sizes": [16, 32], "has_fp64": True, "has_subgroup_2d_block_io": True,
        "has_subgroup_matrix_multiply_accumulate": True, "has_bfloat16_conversions": True}
sym = bool(int(sys.argv[1]))
tile = {"WIDTH": 128, "SYM": sym, "BLOCK_G": 16, "BLOCK_W": 128, "ALIGNED": True}
types = {"table": "*i64", "count": "i32", "out": "*bf16", "upstream": "*i64", "lr": "fp32"}
pointers = ("grad_offset", "grad_lo", "grad_hi", "weight", "scale", "low", "minimum", "upper",
            "positions", "errors", "groups", "importance", "fractions", "lo_in", "hi_in", "lo_out",
            "hi_out")
types |= dict.fromkeys(pointers, "*fp32")
types |= {"codes": "*u8", "zeros": "*u8", "scales": "*fp16", "top": "fp32"}
sizes = ("columns", "rows", "stride", "total", "per", "rungs", "tries", "refinements")
types |= dict.fromkeys(sizes, "i32")
types |= dict.fromkeys(("lowest", "high"), "fp32")
search = {"WIDTH": 128, "WEIGHTED": True, "BLOCK_G": 16, "BLOCK_W": 128}
packed = {"x": "*bf16", "words": "*i32", "scale": "*fp16", "zero": "*u8", "group": "*i32",
          "groups": "i32", **dict.fromkeys(("M", "N", "K"), "i32")}
layout = {"BITS": 3, "WIDTH": 128, "UNIFORM": False, "ORDERED": False}
cases = {
    "fake_quantize": (_triton_tuning, tile, {}),
    "quantize": (_triton_tuning, tile, {}),
    "backward": (_triton_tuning, {**tile, "RANGE": True, "GRAD": tl.bfloat16}, {}),
    "sign_step": (_triton_tuning, {"QUEUED": False, "BLOCK": 2048, "ALIGNED": True}, {}),
    "gptq_block": (_triton_tuning, {"BLOCK_C": 64, "BLOCK_R": 32}, {}),
    "search": (_triton_search, {**search, "SYM": sym, "ALL_ZEROS": False}, {"low": "fp32"}),
    "fit_minima": (_triton_search, search, {"low": "fp32"}),
    "correct": (_triton_search, {**search, "SYM": sym, "SUPER": 8}, {"low": "fp32"}),
    "few_rows": (_triton_linear, {**layout, "BLOCK_N": 16, "BLOCK_K": 128}, packed),
    "many_rows": (_triton_linear, {**layout, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64}, packed),
}
found = {}
for name, (module, held, others) in cases.items():
    function = getattr(module, name)
    names = function.arg_names
    signature = {each: {**types, **others}.get(each, "constexpr") for each in names}
    values = {(names.index(each),): value for each, value in held.items()}
    source = ASTSource(function, signature=signature, constexprs=values)
    made = triton.compile(source, target=GPUTarget("xpu", card, 32),
                          options={"enable_fp_fusion": False})
    code = made.asm["llir"]
    found[name] = {"spirv": len(made.asm["spv"]), "fused": code.count("fmuladd"),
                   "divided": code.count("= fdiv ")}
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("triton.backends.intel") is None, reason="this Triton has no compiler for Intel GPUs"
)
@pytest.mark.parametrize("sym", [True, False])
def test_they_compile_for_an_intel_gpu(sym: bool) -> None:
    found = compiled(COMPILE, str(int(sym)))
    assert set(found) == KERNELS
    for name, counts in found.items():
        assert counts["spirv"], name
        assert not counts["fused"], f"{name}: a product and a sum are rounded once"
        # Plain division may be off by 2.5 units in the last place there; ours are rounded.
        assert not counts["divided"] or name in ("few_rows", "many_rows"), f"{name}: divides"
