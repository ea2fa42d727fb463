"""A run on a streamed model goes on as one."""

from __future__ import annotations

import pytest

from autoround.resume.fingerprint import STREAMED
from autoround.resume.policy import OtherRunError, ResumeState, check_streaming


@pytest.mark.parametrize(
    ("then", "now", "remedy"),
    [
        (True, False, "begun with --stream-hub: add it to go on"),
        (False, True, "begun without --stream-hub: leave it out to go on"),
    ],
)
def test_weights_come_the_same_way_again(then: bool, now: bool, remedy: str) -> None:
    files = {"tensors outside the blocks": STREAMED if then else "0123456789abcdef"}
    state = ResumeState({"model files": files}, {}, None)
    check_streaming(state, streamed=then)
    check_streaming(None, streamed=now)
    with pytest.raises(OtherRunError, match=remedy):
        check_streaming(state, streamed=now)
