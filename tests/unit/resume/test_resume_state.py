from __future__ import annotations

from typing import Any

import pytest

from autoround.errors import OutputError
from autoround.resume.policy import parse_header
from autoround.settings import MachineSettings


def header(**changed: Any) -> dict[str, Any]:
    fingerprint = {"compute dtype": "bfloat16", "threads": 2, "recipe": {}} | changed
    return {"fingerprint": fingerprint, "machine": {}}


def test_dtype_and_threads_of_the_interrupted_run_are_known() -> None:
    assert parse_header(header()).machine_settings == MachineSettings("bfloat16", 2)


@pytest.mark.parametrize("threads", [None, 0, "two"])
def test_a_header_without_threads_is_damaged(threads: object) -> None:
    with pytest.raises(OutputError, match="header is damaged"):
        parse_header(header(threads=threads))
