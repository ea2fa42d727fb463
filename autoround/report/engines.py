"""What serving engines do with the formats of a plan, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from autoround.planning.serving.table import engine_table
from autoround.types import EngineFinding, Plan

#: Effects from the worst to the best, each in the words of one line about all engines.
_WORDS = {
    "refuses": "refused by",
    "reads otherwise": "read otherwise by",
    "slow": "slow in",
    "limited": "with limits on some machines by",
    "unknown": "nothing known of",
    "takes": "taken by",
}


def engine_lines(plan: Plan, engines: Collection[str]) -> list[str]:
    """Say what serving engines do with the formats of a plan.

    Args:
        plan: of the first pass.
        engines: those that are asked about, each finding with a line of its own; with none, one
            line a format tells of all.
    """
    if engines:
        asked = [finding for finding in plan.serving if finding.engine in engines]
        return [f"serving      {describe_finding(finding)}" for finding in asked]
    by_format: dict[str, list[EngineFinding]] = {}
    for finding in plan.serving:
        by_format.setdefault(finding.format, []).append(finding)
    return [f"serving      {_summary(*item)}" for item in by_format.items()]


def describe_finding(finding: EngineFinding) -> str:
    """Return a finding as one sentence, with its date and its evidence.

    Args:
        finding: of a plan.
    """
    title = engine_table()[finding.engine].title
    start = f"{title} {f'before {finding.before}' if finding.before else finding.version}"
    known = f"[{finding.evidence}, {finding.looked_at}]"
    if finding.effect == "takes":
        return f"{start} takes {finding.format}: {finding.instead} {known}"
    if finding.effect == "unknown":
        return f"{start}, {finding.format}: {finding.says}"
    layers = f"{finding.layers} layer{'s' * (finding.layers != 1)}"
    what = f"{layers} of {finding.format}" if finding.layers else finding.format
    done = {
        "refuses": f"refuses {what}",
        "slow": f"runs {what} slowly",
        "reads otherwise": f"reads {what} otherwise",
    }[finding.effect]
    where = f" on {finding.on}" if finding.on else ""
    example = f", such as {finding.example}" if finding.example else ""
    return f"{start} {done}{where}{example}: {finding.says}; instead: {finding.instead} {known}"


def _summary(name: str, findings: Sequence[EngineFinding]) -> str:
    """Say in one line which engines take a format."""
    # Of an engine that reads no such files at all there is nothing to warn about.
    about = [x for x in findings if x.rule or x.effect != "refuses"]
    words: dict[str, set[str]] = {}
    for finding in about:
        word = "limited" if finding.on else finding.effect
        # Earlier versions are named beside the one that was looked at.
        before = f" before {finding.before}" if finding.before else ""
        words.setdefault(f"{finding.engine}{before}", set()).add(word)
    by_worst: dict[str, list[str]] = {}
    for engine, effects in words.items():
        worst = next(word for word in _WORDS if word in effects)
        by_worst.setdefault(worst, []).append(engine)
    listed = [f"{_WORDS[word]} {', '.join(by_worst[word])}" for word in _WORDS if word in by_worst]
    return f"{name}: {'; '.join(reversed(listed))} (--for ENGINE says more)"
