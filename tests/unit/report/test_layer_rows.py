from __future__ import annotations

from autoround.report.folder import RunFolder
from autoround.report.layer_rows import layer_rows


def layer(name: str, bits: int | None, **more: object) -> dict[str, object]:
    scheme = None if bits is None else {"bits": bits, "group_size": 32, "sym": True, "kind": "int"}
    return {"name": name, "shape": [8, 4], "scheme": scheme, "reason": "a router", **more}


def test_experts_of_a_block_are_one_row() -> None:
    layers = [
        layer("m.3.attn.q", 4),
        layer("m.3.experts.0.up", 2),
        layer("m.3.experts.1.up", 3),
        layer("m.3.gate", None),
        layer("m.3.stacked", 4, experts=8),
    ]
    plan = {"blocks": [{"name": "m.3", "layers": layers}], "kept": [layer("lm_head", 8)]}
    errors = {"layer_errors": {"m.3.experts.0.up": 0.3, "m.3.experts.1.up": 0.2, "lm_head": None}}
    rows = {row.role: row for row in layer_rows(RunFolder(plan, (errors,)))}
    assert list(rows) == ["attn.q", "experts.*.up", "gate", "stacked", "lm_head"]
    experts = rows["experts.*.up"]
    assert (experts.count, experts.bits_text, experts.error) == (2, "2-3", 0.3)
    assert experts.schemes == ("W2 g32 sym", "W3 g32 sym")
    assert (rows["gate"].bits, rows["gate"].schemes) == ((16,), ("kept: a router",))
    assert rows["stacked"].count == 8
    assert (rows["lm_head"].block, rows["lm_head"].error) == (None, None)
    assert rows["attn.q"].block == 0


def test_block_types_of_gguf_have_their_names() -> None:
    scheme = {"bits": 4, "group_size": 32, "sym": False, "kind": "q4_k"}
    plan = {"blocks": [{"name": "m", "layers": [{"name": "m.q", "scheme": scheme}]}]}
    assert layer_rows(RunFolder(plan))[0].schemes == ("Q4_K",)
