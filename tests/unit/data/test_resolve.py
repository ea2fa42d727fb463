"""What to calibrate on when nobody chose, and the recipe's dataset cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoround.data import resolve
from autoround.data.resolve import resolve_dataset
from autoround.data.sources import EMBEDDED

HUB = "owner/name"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Return what is true of the hub, to be changed."""
    state = {"cached": False, "offline": False, "reachable": False}
    monkeypatch.setattr(resolve, "is_cached", lambda name: state["cached"])
    monkeypatch.setattr(resolve, "is_offline", lambda: state["offline"])
    monkeypatch.setattr(resolve, "is_reachable", lambda name: state["reachable"])
    return state


def test_a_dataset_that_the_user_named_is_never_replaced(hub: dict[str, bool]) -> None:
    for spec in (HUB, [HUB, "other/name"], "no such thing"):
        assert resolve_dataset(spec, explicit=True) == (spec, None)


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ({}, False),
        ({"cached": True, "offline": True}, True),
        ({"reachable": True}, True),
        ({"reachable": True, "offline": True}, False),
    ],
)
def test_the_embedded_text_takes_the_place_of_one_that_cannot_be_had(
    state: dict[str, bool], kept: bool, hub: dict[str, bool]
) -> None:
    hub.update(state)
    found, note = resolve_dataset(f"{HUB}:num=3", explicit=False)
    if kept:
        assert (found, note) == (f"{HUB}:num=3", None)
    else:
        assert found == EMBEDDED
        assert note is not None
        assert note.endswith(f"because {HUB} cannot be reached")


def test_what_is_on_this_machine_is_not_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> bool:
        raise AssertionError("asked the hub")

    for name in ("is_cached", "is_offline", "is_reachable"):
        monkeypatch.setattr(resolve, name, fail)
    monkeypatch.chdir(tmp_path)
    Path("owner/name").mkdir(parents=True)
    for spec in (EMBEDDED, "missing.jsonl", "text.TXT", HUB):
        assert resolve_dataset(spec, explicit=False) == (spec, None)


def test_one_of_several_is_enough(hub: dict[str, bool]) -> None:
    found, note = resolve_dataset([EMBEDDED, HUB], explicit=False)
    assert found == EMBEDDED
    assert note is not None
    assert HUB in note
