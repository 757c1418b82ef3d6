"""Rows of the ledger, as tests store them."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.stores.base import AttemptRow, Brief, RequestRow
from penstock.stores.base.ledger import NOTHING, SOURCES

NOON = 1_793_880_000.0  # 2026-11-05T12:00Z


def an_attempt(request_id: str, number: int = 1, **changes: Any) -> AttemptRow:
    row = AttemptRow(
        id=f"{request_id}/{number}",
        request_id=request_id,
        number=number,
        provider="openai",
        model="gpt-5.4",
        status=200,
        outcome="ok",
        prompt_tokens=100,
        cached_tokens=40,
        completion_tokens=20,
        reasoning_tokens=5,
        prompt_source="reported",
        completion_source="reported",
        cost_nanos=1_000,
        price_version="2026-11",
        duration_ms=812.25,
        wait_ms=0.0,
        state="complete",
    )
    return msgspec.structs.replace(row, id=f"{request_id}/{number}", **changes)


def a_row(number: int = 1, at: float = NOON, **changes: Any) -> RequestRow:
    """The request of that number, which began at that time."""
    id_ = f"req_{int(at * 1000):012x}{number:06x}abcdef012345"
    row = RequestRow(
        id=id_,
        started_at=at,
        key_id="key_a",
        project_id="prj_1",
        endpoint="chat.completions",
        asked="gpt-5.4",
        route="gpt-*",
        provider="openai",
        model="gpt-5.4",
        stream=True,
        status=200,
        ended="ok",
        code=None,
        finish="stop",
        prompt_tokens=100,
        cached_tokens=40,
        completion_tokens=20,
        reasoning_tokens=5,
        prompt_source="reported",
        completion_source="reported",
        cost_nanos=1_000,
        price_version="2026-11",
        duration_ms=812.25,
        first_event_ms=120.5,
        tags="",
        user=None,
        safety_identifier=None,
        trace=b'{"attempts":[]}',
        state="complete",
        attempts=(an_attempt(id_),),
    )
    return msgspec.structs.replace(row, **changes)


def a_brief(row: RequestRow) -> Brief:
    """A row of one attempt, of which there is no more to tell, in its short form."""
    (attempt,) = row.attempts
    assert attempt.duration_ms is not None
    assert row.duration_ms is not None
    return (
        row.id,
        (
            *(row.key_id, row.project_id, row.endpoint, row.asked),
            *(row.route, row.provider, row.model, row.price_version),
        ),
        row.started_at,
        int(row.stream),
        row.finish,
        row.prompt_tokens,
        row.cached_tokens,
        row.completion_tokens,
        row.reasoning_tokens,
        SOURCES[row.state, row.prompt_source, row.completion_source],
        NOTHING if row.first_event_ms is None else row.first_event_ms,
        row.duration_ms,
        attempt.duration_ms,
        NOTHING if row.cost_nanos is None else row.cost_nanos,
    )
