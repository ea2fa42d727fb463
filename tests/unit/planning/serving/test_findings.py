"""Plans held against the table of engines: every rule has one that meets it, and one near it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from autoround.planning.serving.facts import FormatFacts, format_facts
from autoround.planning.serving.findings import findings_of, meets, with_engine_findings
from autoround.planning.serving.table import Rule, engine_table, matches_packing
from autoround.types import BlockPlan, EngineFinding, LayerPlan, OutputPlan, Scheme

from ._engine_plans import PATH, W4, experts, facts, layer, plan_of

Make: TypeAlias = Callable[[], FormatFacts]


def one(packing: str, bits: int = 4, size: int = 128, sym: bool = True, **changes: Any) -> Make:
    """Make an output of one layer, whose scheme is given."""
    shape = changes.pop("shape", (256, 256))
    kind = changes.pop("kind", "int")
    single = layer("self_attn.o_proj", Scheme(bits, size, sym, kind), shape=shape)
    return lambda: facts(packing, single, **changes)


def several(packing: str, *layers: LayerPlan) -> Make:
    return lambda: facts(packing, *layers)


def outside(name: str) -> Make:
    """Make an output with a quantized layer outside the blocks."""
    kept = (LayerPlan(name, (512, 256), W4),)
    plan = dataclasses.replace(plan_of("gptq", Q), kept=kept)
    return lambda: format_facts(plan, plan.outputs[0])


def two_blocks(first: Scheme | None, second: Scheme | None) -> Make:
    """Make an output of two blocks whose second layers are given."""
    blocks = tuple(
        BlockPlan(
            i,
            f"h.{i}",
            tuple(
                LayerPlan(f"h.{i}.{n}", (256, 256), s, block=f"h.{i}")
                for n, s in (("a", W4), ("b", scheme))
            ),
        )
        for i, scheme in enumerate((first, second))
    )
    plan = dataclasses.replace(plan_of("gptq", Q), blocks=blocks)
    return lambda: format_facts(plan, plan.outputs[0])


W8, A4 = Scheme(8, 128, True), Scheme(4, 128, False)
G64 = Scheme(4, 64, True)
Q, K = layer("self_attn.q_proj"), layer("self_attn.k_proj")
V, DOWN = layer("self_attn.v_proj"), layer("mlp.down_proj")
GATE, UP = layer("mlp.gate_proj"), layer("mlp.up_proj")
Q64, K64, V64, O64 = (layer(f"self_attn.{x}_proj", G64) for x in "qkvo")
EXPERTS = [experts("gate"), experts("up"), experts("down")]
MIXTRAL = experts("down", files=(f"{PATH}.block_sparse_moe.experts.{{}}.w2",))
NARROW = {"shape": (1024, 192)}
MERGED = (several("pack-quantized", Q, K, V64), several("pack-quantized", Q, K, V, O64))
#: For every rule, an output that meets it and one near it that does not.
CASES: dict[str, tuple[Make, Make]] = {
    "vllm/plain-packing": (one("auto_round", sym=False), one("auto_round:auto_gptq")),
    "vllm/gptq-zero-points": (one("gptq_v2", sym=False), one("gptq_v2")),
    "vllm/auto-gptq-zero-points": (
        one("auto_round:auto_gptq", 8, sym=False),
        one("auto_round:auto_gptq", 8),
    ),
    "vllm/gptq-bits": (one("gptq", 3), one("gptq", 8)),
    "vllm/gptq-groups": (one("gptq", size=16), one("gptq", size=0)),
    "vllm/gptq-order": (one("gptq", desc_act=True), one("gptq", size=-1, desc_act=True)),
    "vllm/short-groups": (one("gptq", shape=(256, 320)), one("gptq", shape=(256, 384))),
    "vllm/gptq-experts": (
        several("gptq", Q, K, V, GATE, UP, experts("up", W8, **NARROW)),
        several("gptq", Q, K, V, GATE, UP, experts("up", W8)),
    ),
    "vllm/merged-differ": MERGED,
    "vllm/auto-awq-cpu": (one("auto_round:auto_awq"), one("auto_round:auto_awq", sym=False)),
    "vllm/awq-bits": (one("awq", 8), one("awq")),
    "vllm/awq-groups": (one("awq", size=256), one("awq", size=-1)),
    "vllm/auto-awq-symmetric": (
        one("auto_round:auto_awq"),
        one("auto_round:auto_awq", sym=False),
    ),
    "vllm/auto-awq-cpu-groups": (
        one("auto_round:auto_awq", size=16, sym=False),
        one("auto_round:auto_awq", size=32, sym=False),
    ),
    "vllm/packed-groups": (
        one("pack-quantized", size=16),
        one("pack-quantized", size=16, sym=False),
    ),
    "vllm/packed-group-zero-points": (
        one("pack-quantized", size=16, sym=False),
        one("pack-quantized", size=-1, sym=False),
    ),
    "vllm/packed-words": (
        several("pack-quantized", layer("mlp.up_proj", A4, shape=(500, 256))),
        several("pack-quantized", layer("mlp.down_proj", A4, shape=(500, 256))),
    ),
    "vllm/packed-expert-rows": (
        several("pack-quantized", experts("up", Scheme(3, 0, True))),
        several("pack-quantized", experts("up", Scheme(8, -1, True))),
    ),
    "vllm/packed-expert-8": (
        several("pack-quantized", experts("up", Scheme(8, 32, False))),
        one("pack-quantized", 8, 32, sym=False),
    ),
    "vllm/humming-bits": (one("pack-quantized", 6), one("pack-quantized", 8)),
    "vllm/packed-8-zero-points": (one("pack-quantized", 8, sym=False), one("pack-quantized", 8)),
    "vllm/cpu-bits": (one("gptq", 8), one("gptq", 4)),
    "vllm/cpu-experts": (several("gptq", Q, *EXPERTS), several("gptq", Q, GATE, UP, DOWN)),
    "vllm/auto-cpu-experts": (
        several("auto_round:auto_gptq", Q, *EXPERTS),
        several("auto_round:auto_gptq", Q, GATE, UP, DOWN),
    ),
    "vllm/cpu-widths": (one("awq", shape=(40, 256)), one("awq", shape=(64, 256))),
    "sglang/plain-packing": (one("auto_round", sym=False), one("auto_round:auto_gptq")),
    "sglang/gptq-zero-points": (one("gptq", sym=False), one("gptq")),
    "sglang/gptq-bits": (one("auto_round:auto_gptq", 2), one("auto_round:auto_gptq", 8)),
    "sglang/gptq-groups": (one("pack-quantized", size=256), one("pack-quantized", size=64)),
    "sglang/short-groups": (one("gptq", shape=(256, 320)), one("gptq", shape=(256, 384))),
    "sglang/merged-differ": MERGED,
    "sglang/awq-bits": (one("auto_round:auto_awq", 8), one("auto_round:auto_awq")),
    "sglang/awq-groups": (one("awq", size=16), one("awq", size=32)),
    "sglang/auto-awq-symmetric": (
        one("auto_round:auto_awq"),
        one("auto_round:auto_awq", sym=False),
    ),
    "sglang/packed-bits": (one("pack-quantized", 3), one("pack-quantized", 8)),
    "sglang/packed-8-zero-points": (one("pack-quantized", 8, sym=False), one("pack-quantized", 8)),
    "sglang/gptq-outputs": (
        one("gptq", shape=(96, 256)),
        several("gptq", *(dataclasses.replace(x, shape=(64, 256)) for x in (Q, K, V))),
    ),
    "sglang/gptq-inputs": (one("gptq", size=32, shape=(256, 96)), one("gptq", size=64)),
    "sglang/gptq-tiles": (
        one("gptq", size=64, shape=(192, 192)),
        one("gptq", size=64, shape=(256, 192)),
    ),
    "sglang/awq-inputs": (one("awq", size=64, shape=(256, 192)), one("awq", size=64)),
    "sglang/cpu-bits": (one("auto_round:auto_gptq", 8), one("auto_round:auto_gptq", 4)),
    "llama.cpp/super-blocks": (
        one("gguf:q4_k_m", kind="q4_k", shape=(256, 320)),
        one("gguf:q4_k_m", kind="q4_0", shape=(256, 320)),
    ),
    "llama.cpp/blocks": (
        one("gguf:q8_0", kind="q8_0", shape=(256, 80)),
        one("gguf:q8_0", kind="q8_0", shape=(256, 96)),
    ),
    "mlx/mlx-bits": (one("mlx", 7), one("mlx", 6)),
    "mlx/mlx-groups": (one("mlx", size=-1), one("mlx", size=64)),
    "mlx/awq-groups": (one("awq", size=16), one("awq", size=32)),
    "mlx/gptq-index": (one("gptq"), one("awq")),
    "mlx/packed": (one("pack-quantized"), one("mlx")),
    "transformers/gptq-zero-points": (one("gptq", sym=False), one("gptq_v2", sym=False)),
    "transformers/gptq-schemes": (
        several("gptq", layer("self_attn.o_proj", W8), DOWN),
        several("gptq", layer("self_attn.o_proj", None), DOWN),
    ),
    "transformers/gptq-uneven": (two_blocks(W4, None), two_blocks(None, None)),
    "transformers/gptq-head": (outside("lm_head"), outside("tower.0.proj")),
    "transformers/stacked-experts": (
        several("awq", Q, *EXPERTS),
        several("awq", Q, layer("mlp.experts.0.up_proj")),
    ),
    "transformers/packed-zero-points": (
        one("pack-quantized", sym=False),
        several("pack-quantized", layer("self_attn.o_proj", A4), DOWN),
    ),
    "transformers/packed-expert-zero-points": (
        several("pack-quantized", experts("up", A4)),
        several("pack-quantized", layer("self_attn.q_proj", A4), experts("up")),
    ),
    "transformers/packed-mixed-zero-points": (
        several("pack-quantized", layer("self_attn.o_proj", A4), DOWN),
        several("pack-quantized", O64, DOWN),
    ),
    "transformers/packed-experts": (
        several("pack-quantized", Q, experts("up", W4), experts("down", W8)),
        several("pack-quantized", layer("self_attn.q_proj", W8), *EXPERTS),
    ),
    "transformers/gguf-dense": (one("gguf:q8_0", kind="q8_0"), one("fake")),
    "gptqmodel/gptq-zero-points": (one("gptq", sym=False), one("gptq_v2", sym=False)),
    "gptqmodel/renamed-experts": (several("awq", Q, MIXTRAL), several("awq", Q, *EXPERTS)),
    "auto-round/renamed-experts": (
        several("auto_round:auto_awq", Q, MIXTRAL),
        several("auto_round:auto_awq", Q, *EXPERTS),
    ),
    "compressed-tensors/old-versions": (one("pack-quantized", 6), one("pack-quantized", 2)),
}
RULES = {
    f"{name}/{rule.id}": rule for name, engine in engine_table().items() for rule in engine.rules
}


def speaks(rule: Rule, output: FormatFacts) -> bool:
    return matches_packing(output.packing, rule.packings) and any(
        meets(rule.when, one_layer, output) for one_layer in (*output.layers, *output.kept)
    )


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_met_by_its_plan_and_not_by_one_near_it(name: str) -> None:
    meeting, near = (make() for make in CASES[name])
    assert speaks(RULES[name], meeting)
    assert not speaks(RULES[name], near)
    engine, _, rule = name.partition("/")
    assert (engine, rule) in {(x.engine, x.rule) for x in findings_of("f", meeting)}
    assert (engine, rule) not in {(x.engine, x.rule) for x in findings_of("f", near)}


def test_no_case_is_of_a_rule_that_is_gone() -> None:
    assert set(CASES) == set(RULES)


def of_engine(engine: str, output: FormatFacts) -> list[EngineFinding]:
    return [x for x in findings_of("f", output) if x.engine == engine]


def test_layers_are_counted_and_one_is_named() -> None:
    layers = [layer("self_attn.q_proj", A4), layer("self_attn.k_proj", A4), V]
    (finding,) = [x for x in of_engine("vllm", facts("gptq", *layers)) if x.rule.endswith("points")]
    assert (finding.effect, finding.layers) == ("refuses", 2)
    assert finding.example == f"{PATH}.self_attn.q_proj (W4 g128 asym)"
    assert (finding.version, finding.looked_at) == ("0.32.0", "2026-11-29")


def test_stacked_experts_count_as_matrices() -> None:
    found = of_engine("vllm", facts("gptq", Q, *EXPERTS))
    finding = next(x for x in found if x.rule == "cpu-experts")
    assert (finding.layers, finding.on) == (12, "a CPU without AMX")
    assert finding.example == f"{PATH}.mlp.experts.0.gate_proj (W4 g128 sym)"


def test_merged_layers_that_differ_are_named_together() -> None:
    found = of_engine("sglang", facts("pack-quantized", Q, K, V64))
    finding = next(x for x in found if x.rule == "merged-differ")
    assert finding.example == (
        f"{PATH}.self_attn.{{q_proj,k_proj,v_proj}}, W4 g128 sym and W4 g64 sym"
    )
    kept = facts("pack-quantized", Q, K, layer("self_attn.v_proj", None))
    assert "16 bit and W4" in next(x for x in of_engine("vllm", kept) if x.layers).example


def test_experts_of_a_layer_are_merged() -> None:
    other = experts("down", W8)
    found = of_engine("vllm", facts("pack-quantized", Q, experts("up"), other))
    finding = next(x for x in found if x.rule == "merged-differ")
    assert finding.example.startswith(f"{PATH}.mlp.experts.*")
    assert finding.layers == 8


def test_kept_experts_are_of_another_scheme_than_most_layers() -> None:
    output = facts("gptq", Q, K, V, experts("up", None, **NARROW))
    (finding,) = [x for x in of_engine("vllm", output) if x.rule == "gptq-experts"]
    assert (finding.effect, finding.layers) == ("reads otherwise", 4)
    assert finding.example == f"{PATH}.mlp.experts.0.up_proj (16 bit)"
    # Rules about other things are about quantized layers alone.
    assert "cpu-experts" not in {x.rule for x in of_engine("vllm", output)}


def test_earlier_versions_do_not_keep_a_format_from_being_taken() -> None:
    taken, old = of_engine("compressed-tensors", one("pack-quantized", 3)())
    assert (taken.effect, taken.before) == ("takes", "")
    assert (old.effect, old.before, old.layers) == ("reads otherwise", "0.18.0", 1)


def test_asymmetric_experts_get_no_advice_that_is_about_other_layers() -> None:
    output = facts("pack-quantized", layer("self_attn.q_proj", A4), experts("up", A4))
    assert [x.rule for x in of_engine("transformers", output)] == ["packed-expert-zero-points"]


def test_a_kept_expert_is_one_of_another_scheme() -> None:
    output = facts("pack-quantized", Q, experts("up"), experts("down", None))
    assert "packed-experts" in {x.rule for x in of_engine("transformers", output)}


def test_a_format_without_a_rule_against_it_is_taken_with_its_command() -> None:
    (finding,) = of_engine("vllm", facts("pack-quantized"))
    assert (finding.effect, finding.layers, finding.rule) == ("takes", 0, "")
    assert finding.instead == "vllm serve FOLDER"
    # All bits are taken; not all were run.
    assert finding.evidence == "run (4 bits on a CPU, a small llama)"
    limited = [x.effect for x in of_engine("vllm", one("gptq", 8)())]
    assert limited == ["takes", "refuses"]
    assert [x.effect for x in of_engine("vllm", one("gptq", sym=False)())] == ["refuses"]


def test_a_format_that_an_engine_does_not_read_is_refused_with_one_that_it_does() -> None:
    (finding,) = of_engine("llama.cpp", facts("gptq"))
    assert (finding.effect, finding.rule) == ("refuses", "")
    assert finding.says == "it does not read gptq"
    assert finding.instead == "--format gguf:q4_k_m"


def test_nothing_is_said_of_formats_that_the_table_does_not_know() -> None:
    plan = plan_of("gptq", Q)
    # Its config is not even asked for: no package here has such a format.
    mine = dataclasses.replace(plan, outputs=(OutputPlan("mine", "mine", "float16"),))
    serving = with_engine_findings(mine).serving
    assert {(x.format, x.effect) for x in serving} == {("mine", "unknown")}
    assert len(serving) == len(engine_table())


def test_a_plan_gets_the_findings_of_all_passes() -> None:
    first = plan_of("gptq", Q)
    kind = Scheme(8, 32, True, "q8_0")
    further = plan_of("gguf:q8_0", layer("self_attn.q_proj", kind))
    plan = with_engine_findings(dataclasses.replace(first, further=(further,)))
    assert {x.format for x in plan.serving} == {"auto_gptq", "gguf:q8_0"}
    assert all(one_pass.serving == () for one_pass in plan.further)
