"""What a row of the contract is, and the ways to ask that most rows share."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from penstock.check.ask import ABSENT, LIMIT, Ask, Members
from penstock.check.client import Answer
from penstock.check.verdict import Unsupported, lacking, refused, served, summary

# The levels. M: a shipping client breaks or misreads the answer. S: OpenAI's document says so. O: the hosted service
# was seen to do so. P: servers differ, and each should say what it does; such a row informs and cannot fail.
LEVELS = ("M", "S", "O", "P")

LABEL = 64  # characters of what was varied

Check = Callable[[Ask], Awaitable[str | None]]


class Row(msgspec.Struct, frozen=True):
    """One promise: what is asked, what is expected, why it matters, which client breaks; `check` asks it.

    `check` returns a note or None when the server keeps the promise, and raises a verdict when not. A `heavy` row costs
    the server much (large bodies, long waits) and is asked only on request.
    """

    id: str
    level: str
    asks: str
    expects: str
    why: str
    breaks: str
    check: Check
    heavy: bool = False


def accepts(*variants: Members, tokens: int = LIMIT) -> Check:
    """Each of these members must be served; what the server says it lacks is named, and all of it is Unsupported."""

    async def check(ask: Ask) -> str | None:
        lacks = []
        for members in variants:
            answer = await ask.chat(tokens=tokens, **members)
            if lacking(answer):
                lacks.append(f"{label(members)}: {summary(answer)}")
            else:
                served(answer, label(members))
        if lacks and len(lacks) == len(variants):
            raise Unsupported(lacks[0])
        return f"not supported: {lacks[0]}" if lacks else None

    return check


def serves(*variants: Members) -> Check:
    """Each of these members must be served, and to lack it is no excuse."""

    async def check(ask: Ask) -> str | None:
        for members in variants:
            served(await ask.chat(**members), label(members))
        return None

    return check


def refuses(
    *variants: Members, param: str | None = None, codes: Sequence[str | None] = (), statuses: Sequence[int] = (400,)
) -> Check:
    """Each of these members must be refused in the envelope, with that param."""

    async def check(ask: Ask) -> str | None:
        for members in variants:
            answer = await ask.chat(**members)
            refused(answer, statuses, param=None if lacking(answer) else param, codes=codes, what=label(members))
        return None

    return check


def tells(*variants: Members) -> Check:
    """Say what the server does with each of these members, whose outcome is the server's choice.

    Asked as streams that are left at their first bytes, since some servers take such a value for "without limit".
    """

    async def check(ask: Ask) -> str | None:
        said = []
        for members in variants:
            said.append(f"{label(members)}: {outcome(await ask.glance(**members))}")
        return "; ".join(said)

    return check


def both(*checks: Check) -> Check:
    """All of these; what is unsupported in one does not hide what another finds."""

    async def check(ask: Ask) -> str | None:
        notes: list[str] = []
        lack: Unsupported | None = None
        for one in checks:
            try:
                note = await one(ask)
            except Unsupported as found:
                lack = lack or found
            else:
                notes += [note] if note else []
        if lack is not None:
            raise lack
        return "; ".join(notes) or None

    return check


def label(members: Members) -> str:
    """Members as a report names them, cut short."""
    named = [
        f"no {name}" if value is ABSENT else f"{name} {json.dumps(value, ensure_ascii=False)}"
        for name, value in members.items()
    ]
    text = ", ".join(named)
    if len(text) <= LABEL:
        return text
    # What is wrong with messages is mostly in the last one.
    return f"messages …{text[-LABEL:]}" if text.startswith("messages ") else text[: LABEL - 1] + "…"


def outcome(answer: Answer) -> str:
    """What became of a request, in two words or the server's own."""
    return "served" if answer.status == 200 else summary(answer)


def values(name: str, *some: Any) -> list[Members]:
    """One member with each of these values."""
    return [{name: value} for value in some]
