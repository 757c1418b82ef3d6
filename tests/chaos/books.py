"""The books of a chaos run: what clients got, what the gateway recorded, what upstreams saw; they must agree.

A client judges each answer alone (`judge`). `Books.differences` then holds all three against each other: one record for
each request that was whole, ids that are unique, and for each request and provider as many attempts on record as calls
that the provider saw. An attempt that broke before the head of an answer may have been seen or not; every other is
known to have been, or known not to have been.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from chaos.caller import Got, Wish
from chaos.plan import is_part, is_whole

OWN = "own"  # the marker of requests that no client of the run made
NOT_SENT = frozenset(("connect", "timeout_connect", "timeout_pool", "pressed", "unhealthy"))
PERHAPS_SEEN = frozenset(("stale", "reset", "timeout_headers", "timeout_total", "cancelled"))
ENDED = {"ok": ("ok",), "error": ("failed", "refused"), "cut": ("cut",)}


def judge(wish: Wish, got: Got) -> str:
    """What a client makes of an answer: ok, error, cut (told so within the stream), hangup; else what is wrong."""
    if got.ended in ("gone", "partial"):
        return "hangup"
    if got.ended != "whole":
        return f"an answer that was {got.ended} after {len(got.body)} bytes of body, status {got.status}"
    kind = got.headers.get("content-type", "")
    if "x-request-id" not in got.headers:
        return f"an answer without an x-request-id, status {got.status}"
    if got.status != 200:
        return _judge_error(got, kind)
    if kind.startswith("text/event-stream") is not wish.stream:
        return f"a content-type of {kind}, where stream was {wish.stream}"
    return _judge_stream(bytes(got.body)) if wish.stream else _judge_whole(bytes(got.body))


def _judge_error(got: Got, kind: str) -> str:
    try:
        error = json.loads(got.body)["error"]
    except (ValueError, LookupError, TypeError):
        return f"status {got.status} without the envelope: {bytes(got.body[:200])!r}"
    named = kind == "application/json" and isinstance(error.get("message"), str) and error["message"]
    return "error" if named else f"status {got.status} with an envelope that lacks something: {error}, {kind}"


def _judge_whole(body: bytes) -> str:
    try:
        choice = json.loads(body)["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    except (ValueError, LookupError, TypeError):
        return f"an answer that is none: {body[:200]!r}"
    return "ok" if finish == "stop" and is_whole(text) else f"an answer that lacks something: {text!r}, {finish}"


def _judge_stream(body: bytes) -> str:
    *events, rest = body.split(b"\n\n")
    text, finishes, error, done = "", 0, False, False
    if rest:
        return f"a stream that ends within an event: {rest!r}"
    for event in events:
        data = event.removeprefix(b"data: ")
        if done or error:
            return f"an event after the end: {event!r}"
        if data == b"[DONE]":
            done = True
            continue
        try:
            chunk = json.loads(data)
        except ValueError:
            return f"an event that is not JSON: {event!r}"
        error = "error" in chunk
        for choice in chunk.get("choices", ()):
            text += choice["delta"].get("content") or ""
            finishes += choice["finish_reason"] is not None
    if error:
        return "cut" if is_part(text) else f"an error after {text!r}"
    if done and finishes == 1 and is_whole(text):
        return "ok"
    return f"a stream dressed as success: {text!r}, {finishes} finishes, [DONE] {done}"


class Asked(msgspec.Struct, frozen=True):
    """What is kept of one request that a client made."""

    outcome: str
    status: int
    request_id: str | None
    partial: bool


class Books:
    """All three sides of a run."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        # What providers answered, by request and provider: a status for each call.
        self.calls: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self.wrong: list[str] = []

    def note(self, wish: Wish, got: Got) -> str:
        """A client's request has ended; returns the outcome."""
        outcome = judge(wish, got)
        if outcome not in ("ok", "error", "cut", "hangup"):
            self.wrong.append(f"{wish.marker} ({wish.model}, stream {wish.stream}) got {outcome}")
            outcome = "wrong"
        request_id = got.headers.get("x-request-id")
        self.asked[wish.marker] = Asked(outcome, got.status, request_id, got.ended == "partial")
        return outcome

    def saw(self, provider: str, marker: str, status: int) -> None:
        """A provider has ended a call of that request."""
        self.calls[marker][provider].append(status)

    def differences(self, lines: Iterable[str]) -> tuple[list[str], Counter[tuple[str, str]]]:
        """Whatever does not agree with the gateway's `lines`, and its attempts by provider and outcome."""
        wrong, ids = list(self.wrong), set()
        attempts: Counter[tuple[str, str]] = Counter()
        missing = {marker for marker, asked in self.asked.items() if not asked.partial}
        for line in lines:
            if not line.startswith("{"):
                if "Traceback" in line or "observer" in line:
                    wrong.append(f"the gateway says: {line}")
                continue
            record = json.loads(line)
            marker = record.get("client_request_id")
            if marker == OWN:
                continue
            asked = self.asked.get(marker)
            if asked is None:
                wrong.append(f"a line of no request: {line}")
                continue
            if asked.partial or marker not in missing:
                wrong.append(f"{marker} is on record {'though it was never whole' if asked.partial else 'twice'}")
            missing.discard(marker)
            ids.add(record["request_id"])
            for attempt in record["attempts"]:
                attempts[attempt["provider"], attempt["outcome"]] += 1
            wrong += [f"{marker}: {what}; {line}" for what in self._compare(marker, asked, record)]
        wrong += [f"{marker} ({self.asked[marker].outcome}) is not on record" for marker in sorted(missing)]
        whole = sum(not asked.partial for asked in self.asked.values())
        if len(ids) != whole:
            wrong.append(f"{len(ids)} request ids for {whole} requests")
        wrong += [f"{marker}, which is not on record, came to {list(calls)}" for marker, calls in self.calls.items()]
        return wrong, attempts

    def _compare(self, marker: str, asked: Asked, record: Any) -> list[str]:
        """How one record differs from what the client got and the providers saw; the calls are struck off."""
        wrong = []
        if asked.request_id is not None and asked.request_id != record["request_id"]:
            wrong.append(f"the client was told {asked.request_id}")
        if asked.outcome in ENDED and (record["ended"] not in ENDED[asked.outcome] or record["status"] != asked.status):
            wrong.append(f"the client got {asked.outcome} with {asked.status}")
        calls = self.calls.pop(marker, {})
        tried: dict[str, list[Any]] = {provider: [] for provider in calls}
        for attempt in record["attempts"]:
            tried.setdefault(attempt["provider"], []).append(attempt)
        for provider, made in tried.items():
            seen = calls.get(provider, [])
            perhaps = sum(attempt["outcome"] in PERHAPS_SEEN for attempt in made)
            surely = [attempt for attempt in made if attempt["outcome"] not in NOT_SENT | PERHAPS_SEEN]
            if not len(surely) <= len(seen) <= len(surely) + perhaps:
                wrong.append(f"{provider} saw {len(seen)} calls")
            refusals = Counter(attempt["status"] for attempt in surely if attempt["status"] >= 400)
            if refusals - Counter(seen):
                wrong.append(f"{provider} answered {seen}")
        return wrong
