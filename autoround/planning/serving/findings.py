"""What serving engines do with the formats of a plan, by their table.

A rule of the table speaks of the layers that meet all its conditions, and becomes one finding,
however many they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from autoround.formats.schemes import group_key
from autoround.planning.serving.facts import FormatFacts, LayerFacts, format_facts
from autoround.planning.serving.table import (
    Conditions,
    Engine,
    Rule,
    engine_table,
    matches_packing,
)
from autoround.types import EngineFinding, OutputPlan, Plan

#: Formats of other packages have packings that no engine of the table is said to read.
UNKNOWN = "nothing is known of this format"
_WORD = 32
#: Conditions that are facts of the same name.
_OF_LAYER = ("experts", "stacked", "renamed", "narrow", "head", "of_most", "cut_words")
_OF_FORMAT = ("uneven", "desc_act", "several_schemes")


def with_engine_findings(plan: Plan) -> Plan:
    """Add what serving engines do with the formats of all passes to the first one.

    Args:
        plan: of the first pass, with the further ones.
    """
    findings: list[EngineFinding] = []
    for one_pass in plan.passes:
        for output in one_pass.outputs:
            findings += output_findings(one_pass, output)
    return replace(plan, serving=tuple(findings))


def output_findings(one_pass: Plan, output: OutputPlan) -> list[EngineFinding]:
    """Return what serving engines do with one output.

    Args:
        one_pass: the pass that writes it.
        output: of that pass.
    """
    facts = format_facts(one_pass, output) if _is_known(output.packing) else None
    return findings_of(output.format, facts)


def _is_known(packing: str) -> bool:
    return any(engine.serving(packing) is not None for engine in engine_table().values())


def findings_of(format_name: str, facts: FormatFacts | None) -> list[EngineFinding]:
    """Return what each engine of the table does with one output.

    Args:
        format_name: as ``output.format`` has it.
        facts: about the output; None where no engine of the table is known to read its packing.

    Returns:
        At least one finding an engine: that it takes the format, where no rule says otherwise.
    """
    table = engine_table()
    if facts is None:
        return [
            _whole(name, engine, format_name, effect="unknown", says=UNKNOWN, instead="try it")
            for name, engine in table.items()
        ]
    return [
        finding
        for name, engine in table.items()
        for finding in _of_engine(name, engine, format_name, facts)
    ]


def _of_engine(
    name: str, engine: Engine, format_name: str, facts: FormatFacts
) -> list[EngineFinding]:
    served = engine.serving(facts.packing)
    if served is None:
        says = f"it does not read {facts.packing}"
        return [
            _whole(name, engine, format_name, effect="refuses", says=says, instead=engine.unread)
        ]
    findings = [
        finding
        for rule in engine.rules
        if matches_packing(facts.packing, rule.packings)
        for finding in _of_rule(name, engine, format_name, rule, facts)
    ]
    if any(
        x.effect in ("refuses", "reads otherwise") and not x.on and not x.before for x in findings
    ):
        return findings
    needs = f" (with {served.needs})" if served.needs else ""
    taken = _whole(
        name, engine, format_name, effect="takes", says="", instead=f"{served.command}{needs}"
    )
    return [replace(taken, evidence=served.known_by), *findings]


def _of_rule(
    name: str, engine: Engine, format_name: str, rule: Rule, facts: FormatFacts
) -> Iterator[EngineFinding]:
    # A kept layer has no bits and no groups: only a rule about other schemes can be about it.
    about = facts.layers if rule.when.of_most is not False else (*facts.layers, *facts.kept)
    layers = [layer for layer in about if meets(rule.when, layer, facts)]
    if not layers:
        return
    first = layers[0]
    scheme = first.scheme or "16 bit"
    example = first.merged if rule.when.merged_differ else f"{first.name} ({scheme})"
    whole = _whole(
        name, engine, format_name, effect=rule.effect, says=rule.says, instead=rule.instead
    )
    yield replace(
        whole,
        rule=rule.id,
        on=rule.on,
        before=rule.before,
        evidence=rule.evidence,
        layers=sum(layer.count for layer in layers),
        example=example,
    )


def _whole(
    name: str, engine: Engine, format_name: str, *, effect: str, says: str, instead: str
) -> EngineFinding:
    """Return a finding about all of a format."""
    return EngineFinding(
        engine=name,
        version=engine.version,
        looked_at=engine.looked_at.isoformat(),
        format=format_name,
        effect=effect,
        says=says,
        instead=instead,
        evidence="source",
    )


def meets(when: Conditions, layer: LayerFacts, facts: FormatFacts) -> bool:
    """Tell whether a layer meets all conditions of a rule.

    Args:
        when: of the rule.
        layer: one of the output.
        facts: about the whole output.
    """
    scheme = layer.scheme
    size = group_key(scheme) if scheme else 0
    truths = {
        "sym": scheme and scheme.sym,
        "crosses_words": scheme is not None and _WORD % scheme.bits != 0,
        "short_groups": size > 0 and layer.inputs % size != 0,
        "merged_differ": bool(layer.merged),
        "experts_differ": len(facts.experts) > 1,
        "experts_symmetric": all(x is None or x.sym for x in facts.experts),
        **{key: getattr(layer, key) for key in _OF_LAYER},
        **{key: getattr(facts, key) for key in _OF_FORMAT},
    }
    of_lists = (
        (when.bits, scheme and scheme.bits),
        (when.group_sizes, size),
        (when.kinds, scheme and scheme.kind),
    )
    multiples = (
        (when.inputs_not_multiple_of, layer.inputs),
        (when.outputs_not_multiple_of, layer.outputs),
    )
    return (
        all(getattr(when, key) in (None, value) for key, value in truths.items())
        and all(not legal or value in legal for legal, value in of_lists)
        and size not in when.other_group_sizes
        and all(not unit or value % unit for unit, value in multiples)
    )
