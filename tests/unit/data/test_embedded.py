"""The text that comes with Python is split at a topic, the same way every time."""

from __future__ import annotations

from autoround.data.embedded import embedded_split


def test_whole_topics_are_in_one_part_or_the_other() -> None:
    from pydoc_data.topics import topics

    first, rest = embedded_split()
    ordered = [topics[name].strip() + "\n\n" for name in sorted(topics)]
    assert first + rest == "".join(ordered)
    assert first in {"".join(ordered[:count]) for count in range(len(ordered))}


def test_the_first_part_has_four_fifths_and_no_more_than_the_topic_that_fills_them() -> None:
    from pydoc_data.topics import topics

    first, rest = embedded_split()
    total = len(first) + len(rest)
    longest = max(len(text.strip()) + 2 for text in topics.values())
    assert 0.8 * total <= len(first) < 0.8 * total + longest
    assert rest


def test_it_is_the_same_every_time() -> None:
    assert embedded_split() == embedded_split()
