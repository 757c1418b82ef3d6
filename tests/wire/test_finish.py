"""Every server's word for an end becomes one of OpenAI's five, or an answer that was given up."""

from __future__ import annotations

from typing import get_args

import pytest
from openai.types.chat.chat_completion import Choice

from penstock.wire.finish import DOCUMENTED, finish_reason


def test_the_documented_reasons_are_those_of_the_sdk_and_stay_as_they_are() -> None:
    assert set(get_args(Choice.model_fields["finish_reason"].annotation)) == DOCUMENTED
    assert {finish_reason(reason) for reason in DOCUMENTED} == DOCUMENTED


@pytest.mark.parametrize(
    ("found", "meant"),
    [
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("STOP", "stop"),
        ("something new", "stop"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("Length", "length"),
        ("tool_use", "tool_calls"),
        ("SAFETY", "content_filter"),
        ("abort", None),
        ("Cancelled", None),
        ("error", None),
        ("insufficient_system_resource", None),
    ],
)
def test_a_servers_own_word_means_one_of_them_or_that_the_answer_is_not_whole(found: str, meant: str | None) -> None:
    assert finish_reason(found) == meant
