from __future__ import annotations

import logging

import pytest
from tilewise.data.channel_issues import ChannelIssues
from tilewise.errors import UserError


def test_left_out__during_the_job(caplog: pytest.LogCaptureFixture) -> None:
    issues = ChannelIssues("validation", images=40)
    with caplog.at_level(logging.WARNING):
        for key in ("a", "a", "b"):
            issues.leave_out(key, "damaged")
    assert issues.left_out == {"a": "damaged", "b": "damaged"} and len(caplog.messages) == 2
    with pytest.raises(UserError, match="channel validation: 3 of 40 images cannot be used"):
        issues.leave_out("c", "damaged")
