"""The text that is always there: the help topics of Python's own standard library."""

from __future__ import annotations

#: Name of the embedded text in plans and reports.
EMBEDDED_LABEL = "pydoc_data.topics (embedded)"

_CALIBRATION_SHARE = 0.8


def embedded_split() -> tuple[str, str]:
    """Split the embedded text into a calibration part and a held-back part.

    Whole topics in sorted order, cut where the first part has reached 80 % of the characters.
    The same for equal Python versions; the topics change a little between versions.
    """
    from pydoc_data.topics import topics

    texts = [topics[name].strip() + "\n\n" for name in sorted(topics)]
    total, count, first = sum(map(len, texts)), 0, 0
    while count < _CALIBRATION_SHARE * total:
        count += len(texts[first])
        first += 1
    return "".join(texts[:first]), "".join(texts[first:])
