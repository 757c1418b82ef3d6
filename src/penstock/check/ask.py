"""How rows ask: requests to the server under check, through the budget, at the pace, waiting out a 429.

Every request that could make the model speak carries a small limit of output tokens, in the parameter that the server
was found to take. A request that was sent before is not sent again unless the row wants a fresh answer, so that many
rows can look at one answer. A 429 is waited out as the server says (Retry-After), else 1, 2 and 4 s with jitter; a wait
beyond the bound, a fourth 429, or a quota that is spent ends the run.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from penstock.check.budget import BYTES_PER_TOKEN, Budget, Stopped
from penstock.check.client import Answer, Connection, Place, Trouble, Unreachable
from penstock.check.events import Stream, parse_stream
from penstock.check.verdict import Failed, Skipped, error_of, object_of, refuse_lack, show, summary

LIMIT = 16  # tokens of output, where a row does not need more
PROMPT = "Say hello."
CHAT = "/chat/completions"
RETRIES = 3
LONGEST_WAIT = 60.0
SHORTEST_SECRET = 8  # characters

Members = dict[str, Any]
Headers = dict[str, str | None]


class _Absent:
    """Takes a member out of the body."""


ABSENT = _Absent()


class CannotRun(Exception):
    """The check cannot begin: no server, a key that is not taken, a model that is not there."""


class Settings(msgspec.Struct, frozen=True):
    """How to reach the server and how gently. `key` None sends none; `pace` is seconds between requests' beginnings."""

    place: Place
    key: str | None = None
    model: str | None = None
    tokens: int = 20_000
    requests: int = 600
    patience: float = 60.0
    pace: float = 0.0

    @property
    def secret(self) -> str | None:
        """The key, where it is one to hide: a shorter one is a word such as `test`, which answers may hold as well."""
        return self.key if self.key is not None and len(self.key) >= SHORTEST_SECRET else None


def user(content: Any) -> list[Members]:
    """A conversation of one user message."""
    return [{"role": "user", "content": content}]


class Ask:
    """The server under check, as rows see it."""

    def __init__(
        self,
        settings: Settings,
        budget: Budget,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        told: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.settings = settings
        self.budget = budget
        self.model = settings.model or ""
        self.models: list[str] = []
        self.limit = "max_completion_tokens"
        self._sleep = sleep
        self._told = told
        self._known: dict[bytes, Answer] = {}
        self._next_at = 0.0

    async def begin(self) -> None:
        """Find out whether the check can run: server, key, model, and which parameter limits the output."""
        listed = await self._begin_with(self.get("/models"))
        if not self.model and listed.status in (401, 403):
            raise CannotRun(self._key_refused(listed))
        self.models = _names(listed)
        if not self.model:
            if not self.models:
                raise CannotRun("the server lists no models: name one with --model")
            self.model = self.models[0]
        answer = await self._begin_with(self.chat())
        if answer.status == 400:
            self.limit = "max_tokens"
            answer = await self._begin_with(self.chat())
        if answer.status in (401, 403):
            raise CannotRun(self._key_refused(answer))
        if answer.status != 200:
            known = f"; it lists {show(', '.join(self.models))}" if answer.status == 404 and self.models else ""
            raise CannotRun(f"the plainest request for {self.model} is answered {summary(answer)}{known}")

    def _key_refused(self, answer: Answer) -> str:
        what = "the key is not accepted" if self.settings.key else "a key is wanted: give --key"
        return f"{what} ({summary(answer)})"

    async def _begin_with(self, asking: Awaitable[Answer]) -> Answer:
        try:
            return await asking
        except (Trouble, Stopped) as error:
            raise CannotRun(str(error)) from None

    # Asking.

    def body(self, *, tokens: int = LIMIT, **members: Any) -> bytes:
        """A chat body: model, one user message and the limit, `members` set over it; ABSENT takes one out."""
        whole = {"model": self.model, "messages": user(PROMPT), self.limit: tokens, **members}
        return json.dumps({name: value for name, value in whole.items() if value is not ABSENT}).encode()

    def request(self, method: str, path: str, body: bytes | None = None, headers: Headers | None = None) -> bytes:
        """A whole request on `path` below the base URL; a header of None is left out.

        A path that begins with `//` is taken from the root of the server instead.
        """
        target = path[1:] if path.startswith("//") else self.settings.place.base + path
        fields: dict[str, str | None] = {"host": self.settings.place.authority, "user-agent": "penstock-check"}
        if self.settings.key is not None:
            fields["authorization"] = f"Bearer {self.settings.key}"
        if body is not None:
            fields |= {"content-type": "application/json", "content-length": str(len(body))}
        fields |= headers or {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + (body or b"")

    async def chat(self, *, fresh: bool = False, tokens: int = LIMIT, **members: Any) -> Answer:
        """Ask for a completion."""
        return await self.post(self.body(tokens=tokens, **members), fresh=fresh, worst=tokens * _choices(members))

    async def stream(self, *, fresh: bool = False, tokens: int = LIMIT, **members: Any) -> Stream:
        """Ask for a streamed completion; a refusal of what the server lacks is Unsupported, any other Failed."""
        answer = await self.chat(fresh=fresh, tokens=tokens, stream=True, **members)
        refuse_lack(answer)
        if answer.status != 200:
            raise Failed(f"instead of a stream, {summary(answer)}")
        stream = parse_stream(answer)
        if not stream.chunks:
            raise Failed(f"no chunk in the stream: {summary(answer)}")
        return stream

    async def post(
        self,
        body: bytes,
        headers: Headers | None = None,
        *,
        worst: int = LIMIT,
        fresh: bool = False,
        path: str = CHAT,
    ) -> Answer:
        """Post a body as it is; `worst` is the output that it may cause."""
        return await self.send(self.request("POST", path, body, headers), worst=worst, fresh=fresh)

    async def get(self, path: str, headers: Headers | None = None) -> Answer:
        """Get a path below the base URL."""
        return await self.send(self.request("GET", path, headers=headers), worst=0)

    async def send(self, request: bytes, *, worst: int, fresh: bool = False) -> Answer:
        """Send a whole request on a connection of its own; raises Trouble when there is no answer."""
        if not fresh and request in self._known:
            return self._known[request]
        head_only = request.startswith(b"HEAD ")
        answer = await self._repeat(request, worst, lambda line: line.exchange(request, head_only=head_only))
        self._known[request] = answer
        return answer

    async def glance(self, *, tokens: int = LIMIT, **members: Any) -> Answer:
        """Ask for a stream and hang up on its first bytes, so that a missing limit costs little."""
        request = self.request("POST", CHAT, self.body(tokens=tokens, stream=True, **members))
        return await self._repeat(request, tokens, lambda line: line.glance(request))

    async def together(
        self, requests: list[bytes], act: Callable[[Connection], Awaitable[list[Answer]]]
    ) -> list[Answer]:
        """Let `act` send these requests on one connection; each is paid for beforehand."""
        worst = [_cost(request, LIMIT) for request in requests]
        for one in worst:
            self.budget.reserve(one)
        await self._keep_pace()
        async with Connection(self.settings.place, self.settings.patience) as line:
            answers = await act(line)
        for one, answer in zip(worst, answers, strict=False):
            self.budget.settle(one, usage_of(answer))
        if any(answer.status == 429 for answer in answers):
            raise Skipped("the server's rate limit was reached")
        return answers

    # Spending.

    async def _repeat(self, request: bytes, worst: int, act: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        cost = _cost(request, worst) if worst else 0
        for attempt in range(RETRIES + 1):
            self.budget.reserve(cost)
            await self._keep_pace()
            try:
                async with Connection(self.settings.place, self.settings.patience) as line:
                    answer = self._without_key(await act(line))
            except Unreachable:
                self.budget.settle(cost, 0)
                raise
            except Trouble:
                self.budget.settle(cost, None)
                raise
            self.budget.settle(cost, usage_of(answer))
            if answer.status != 429:
                return answer
            await self._wait_out(answer, attempt)
        raise Stopped("the server's rate limit does not let up: 429 after every wait")

    def _without_key(self, answer: Answer) -> Answer:
        """The answer without the key that it may repeat, before a text is cut short and leaves a part of it."""
        key = self.settings.secret
        if key is None or key.encode() not in answer.body:
            return answer
        return msgspec.structs.replace(answer, body=answer.body.replace(key.encode(), b"***"))

    async def _keep_pace(self) -> None:
        now = time.monotonic()
        if self._next_at > now:
            await self._sleep(self._next_at - now)
        self._next_at = time.monotonic() + self.settings.pace

    async def _wait_out(self, answer: Answer, attempt: int) -> None:
        error = error_of(answer) or {}
        if error.get("code") == "insufficient_quota" or answer.header("x-should-retry") == "false":
            raise Stopped(f"the quota is spent ({summary(answer)})")
        if attempt == RETRIES:
            return
        seconds = retry_after(answer)
        if seconds is None:
            seconds = 2.0**attempt * random.uniform(0.75, 1.25)
        if seconds > LONGEST_WAIT:
            raise Stopped(f"the server asks to wait {seconds:g} s, more than this check waits")
        self._told(f"429: waiting {seconds:.1f} s")
        self.budget.waited(seconds)
        await self._sleep(seconds)


def _names(listed: Answer) -> list[str]:
    """The ids in a list of models, but for those that no terminal should see; none where it is no such list."""
    data = (object_of(listed) or {}).get("data")
    rows = data if isinstance(data, list) else []
    ids = [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
    return [one for one in ids if one.isprintable()]


def retry_after(answer: Answer) -> float | None:
    """The seconds that the server asks to wait, `retry-after-ms` first as in the SDKs; None when it does not say."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(answer.header(name) or "") / unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def usage_of(answer: Answer) -> int | None:
    """The tokens that an answer reports; 0 for a refusal, None where a 200 says nothing."""
    if answer.status >= 400 or answer.status < 200:
        return 0
    bodies: list[Members] = []
    if (answer.header("content-type") or "").startswith("text/event-stream") and answer.framing != "begun":
        bodies = list(parse_stream(answer).chunks)
    elif (whole := object_of(answer)) is not None:
        if "choices" not in whole:
            return 0  # a list of models, a health report
        bodies = [whole]
    totals = []
    for body in bodies:
        usage = body.get("usage")
        total = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(total, int) and total >= 0:
            totals.append(total)
    return max(totals, default=None)


def _cost(request: bytes, worst: int) -> int:
    body = request.partition(b"\r\n\r\n")[2].lstrip(b" ")  # white space around a body costs nothing
    return len(body) // BYTES_PER_TOKEN + worst


def _choices(members: Members) -> int:
    n = members.get("n")
    return n if type(n) is int and n > 0 else 1
