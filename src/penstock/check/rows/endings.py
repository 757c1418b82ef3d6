"""J: what a client can see of failures in flight: only what it causes itself."""

from __future__ import annotations

import asyncio

from penstock.check.ask import CHAT, Ask
from penstock.check.client import Connection, Trouble
from penstock.check.row import Row
from penstock.check.verdict import expect, served, summary

_HANG_UPS = 4


async def _hang_ups(ask: Ask) -> None:
    for _ in range(_HANG_UPS):
        answer = await ask.glance()
        expect(answer.status == 200, summary(answer))
    served(await ask.chat(fresh=True), f"after {_HANG_UPS} hang-ups")


async def _slow_sender(ask: Ask) -> str:
    request = ask.request("POST", CHAT, ask.body())
    ask.budget.reserve(0)
    started = asyncio.get_running_loop().time()
    async with Connection(ask.settings.place, ask.settings.patience) as line:
        await line.send(request[:-10])
        try:
            answer = await line.answer()
        except Trouble as trouble:
            return f"{trouble}, after {asyncio.get_running_loop().time() - started:.0f} s"
    return f"{summary(answer)}, after {asyncio.get_running_loop().time() - started:.0f} s"


ROWS = (
    Row(
        "J04",
        "M",
        f"{_HANG_UPS} clients that hang up in the middle of a stream",
        "the next request is served",
        "an answer that goes on for nobody keeps its place and is billed",
        "everyone who is being served at that time",
        _hang_ups,
    ),
    Row(
        "J06",
        "P",
        "a request whose last bytes do not come",
        "408, or a close, after a while",
        "connections that are held open for nothing run out",
        "everyone, when the server is attacked so",
        _slow_sender,
        heavy=True,
    ),
)
