from __future__ import annotations

import pytest
from transformers.utils import logging

from autoround.cli._quiet import quiet_libraries


def test_libraries_are_quiet_and_then_as_they_were() -> None:
    before = logging.get_verbosity()
    with quiet_libraries():
        assert logging.get_verbosity() == logging.ERROR
    assert logging.get_verbosity() == before


def test_an_error_does_not_leave_them_quiet() -> None:
    before = logging.get_verbosity()
    with pytest.raises(ValueError, match="stop"), quiet_libraries():
        raise ValueError("stop")
    assert logging.get_verbosity() == before
