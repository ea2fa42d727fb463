"""What writes for a device, and what is packed of a unit."""

from __future__ import annotations

import pytest

from autoround.resume.commit import choose_tasks, on_device, pack_unit
from autoround.session.task_queue import Behind, Immediately

from ...runs import NEAREST, make_session, run_pass
from ...tiny import make_model


def test_the_host_writes_at_once_and_a_device_of_its_own_behind() -> None:
    session = make_session(make_model("llama"), dict(NEAREST))
    assert isinstance(choose_tasks(session.runtime), Immediately)
    session.runtime.own_memory = True
    assert isinstance(choose_tasks(session.runtime), Behind)


@pytest.mark.parametrize(("name", "packed"), [("auto_round", True), ("fake", False)])
def test_a_unit_is_packed_for_a_layout_or_for_a_record(name: str, packed: bool) -> None:
    session = make_session(make_model("llama"), {**NEAREST, "output.format": name})
    assert session.store is None
    output = run_pass(session)[0]
    assert bool(pack_unit(session, output).packed) == packed
    # The host is where it is.
    assert on_device(session, output) is output
