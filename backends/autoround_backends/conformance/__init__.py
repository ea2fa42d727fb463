"""One suite for every backend: the same numbers as the float64 oracle, whoever computes them.

A third party runs it on its own, without pytest and without a checkout::

    python -m autoround_backends.conformance mine

or from its own tests: :func:`cases` are functions of a :class:`Subject` that raise
:class:`Disagreement`.
"""

from __future__ import annotations

from collections.abc import Iterator

from autoround_backends.conformance.contract import contract_cases
from autoround_backends.conformance.end_to_end import end_to_end_cases
from autoround_backends.conformance.loop import loop_cases
from autoround_backends.conformance.operations import operation_cases
from autoround_backends.conformance.subject import Case, Disagreement, Subject, open_subject

__all__ = ["Case", "Disagreement", "Subject", "cases", "failures", "open_subject"]


def cases() -> Iterator[Case]:
    """Yield all cases; those that compute nothing come first."""
    yield from contract_cases()
    yield from operation_cases()
    yield from end_to_end_cases()
    yield from loop_cases()


def failures(subject: Subject) -> list[str]:
    """Run all cases that a backend can be held to; returns what went wrong, by case.

    A device that computes nothing is held to the contract alone.
    """
    messages = []
    for case in cases():
        if case.computes and not subject.computes:
            continue
        try:
            case.run(subject)
        except Exception as error:  # a third party's operations may fail in any way
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            messages.append(f"{case.name}: {type(error).__name__}: {' '.join(lines[:6])}")
    return messages
