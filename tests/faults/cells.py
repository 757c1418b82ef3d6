"""What a provider does wrong, in every phase of a call, and what becomes of it: the table of docs/resilience.md.

`tests/faults/test_cells.py` plays each cell and holds Penstock to it; `table` is what the page shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from penstock.fake_upstream import Answer, Chunk
from penstock.fake_upstream.script import Cut, Fault

TEXT = "one two three"
PIECES = ("one", " two", " three")
REFUSED, UNANSWERED, NO_TLS = "refused", "unanswered", "no TLS"  # places where no connection can be had
PAUSE = 0.05  # seconds, of what is slow and still in time

IN_BAND_429 = '{"error": {"message": "Slow down.", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}'
IN_BAND_500 = '{"error": {"message": "Lost.", "type": "server_error", "code": null}}'
HTML = "<html><body>502 Bad Gateway</body></html>"


class Cell(NamedTuple):
    """One fault in one phase.

    `upstream`: what it answers, or why nothing answers there. `status` and `code`: what the client of a single target
    sees; a code with status 200 is an error in the stream, no code the whole answer. `outcome`: of each attempt;
    `repeated`: whether the same target is asked again, after a wait. `deadline`: the one that passes. `ask`: seconds
    that the upstream asks for.
    """

    phase: str
    fault: str
    does: str
    upstream: Answer | str
    status: int = 200
    code: str | None = None
    outcome: str = "ok"
    repeated: bool = False
    deadline: str | None = None
    streams: tuple[bool, ...] = (False, True)
    ask: float = 0.0

    @property
    def rescued(self) -> bool:
        """Whether another target answers instead."""
        return self.status != 200

    @property
    def name(self) -> str:
        return f"{self.phase}: {self.does}"


def stream(*pieces: str | Chunk, events: int | None = None, how: str = "close", **more: object) -> Answer:
    """A stream of these pieces, cut off after so many events (the role is one)."""
    cut = None if events is None else Cut(after_events=events, how=how)  # type: ignore[arg-type]
    return Answer(chunks=pieces, cut=cut, **more)  # type: ignore[arg-type]


def ending(**more: object) -> Answer:
    """All of the answer but [DONE], with its finish_reason; then whatever else."""
    return Answer(chunks=PIECES, done=False, report_usage="never", **more)  # type: ignore[arg-type]


FAILED, LATE, BUSY, FULL = "upstream_failed", "upstream_timeout", "upstream_overloaded", "rate_limit_exceeded"
GONE = "upstream_unreachable"
S, W = (True,), (False,)  # asked for as a stream, or whole
ROLE = 1
LAST = ROLE + len(PIECES) + 1  # events up to the one with the finish_reason


def cells() -> Iterator[Cell]:
    yield from connecting()
    yield from before_the_head()
    yield from before_the_commit_point()
    yield from mid_stream()
    yield from at_the_end()
    yield from whole_bodies()


def connecting() -> Iterator[Cell]:
    phase = "connect"
    yield Cell(phase, "reset", "refuses the connection", REFUSED, 502, GONE, "connect", True)
    yield Cell(phase, "stall", "does not accept it", UNANSWERED, 504, LATE, "timeout_connect", deadline="connect")
    yield Cell(phase, "malformed", "does not speak TLS where it should", NO_TLS, 502, GONE, "connect", True)


def before_the_head() -> Iterator[Cell]:
    phase = "headers"
    html = {"content-type": "text/html"}
    yield Cell(phase, "reset", "resets the connection", Answer(raw="", end="reset"), 502, FAILED, "reset", True)
    yield Cell(phase, "reset", "closes it without a word", Answer(raw="", end="drop"), 502, FAILED, "reset", True)
    stall = Answer(wait="forever")
    yield Cell(phase, "stall", "says nothing", stall, 504, LATE, "timeout_headers", deadline="headers")
    garbage = Answer(raw="SSH-2.0-OpenSSH_9.6\r\n", end="drop")
    yield Cell(phase, "malformed", "does not speak HTTP", garbage, 502, FAILED, "malformed", True)
    yield Cell(phase, "slow", "takes its time", Answer(content=TEXT, wait=PAUSE))
    limited, limited_for = Answer(status=429), Answer(status=429, retry_after=0.25)
    yield Cell(phase, "429", "429", limited, 429, FULL, "rate_limited", True)
    yield Cell(phase, "429", "429 with `Retry-After`", limited_for, 429, FULL, "rate_limited", True, ask=0.25)
    asks_much = Answer(status=429, retry_after=30.0)
    yield Cell(phase, "429", "429 with a `Retry-After` above `retry_after_cap`", asks_much, 429, FULL, "rate_limited")
    spent = Answer(status=429, error=Fault("No credit.", "insufficient_quota", None, "insufficient_quota"))
    yield Cell(phase, "429", "429 because a quota is spent", spent, 429, "insufficient_quota", "rate_limited")
    cut_off = Answer(status=429, framing="chunked", cut=Cut(after_bytes=10, how="reset"))
    yield Cell(phase, "429", "429, and resets its words", cut_off, 429, FULL, "rate_limited", True)
    held = Answer(status=429, framing="chunked", cut=Cut(after_bytes=10, how="stall"))
    yield Cell(phase, "429", "429, and stalls on its words", held, 429, FULL, "rate_limited", True, "first_event")
    yield Cell(phase, "5xx", "500", Answer(status=500), 502, FAILED, "unavailable", True)
    yield Cell(phase, "5xx", "503", Answer(status=503), 503, BUSY, "unavailable", True)
    broken = Answer(status=503, framing="chunked", cut=Cut(after_bytes=10))
    yield Cell(phase, "5xx", "503, and breaks off its words", broken, 503, BUSY, "unavailable", True)
    page = Answer(body=HTML, headers=html)
    yield Cell(phase, "HTML", "200 with a page", page, 502, FAILED, "malformed", True)
    error_page = Answer(status=502, body=HTML, headers=html)
    yield Cell(phase, "HTML", "502 with a page", error_page, 502, FAILED, "unavailable", True)
    wall = Answer(status=403, body=HTML, headers=html)
    yield Cell(phase, "HTML", "403 with a page", wall, 502, "upstream_refused", "refused_us")


def before_the_commit_point() -> Iterator[Cell]:
    """The head and the role have come, and nothing that says anything."""
    phase = "before the first event"
    resets = stream(*PIECES, events=ROLE, how="reset")
    yield Cell(phase, "reset", "resets the connection", resets, 502, FAILED, "reset", True, streams=S)
    ends = stream(*PIECES, events=ROLE, framing="close")
    yield Cell(phase, "reset", "ends the answer", ends, 502, FAILED, "incomplete", True, streams=S)
    stalls = stream(*PIECES, events=ROLE, how="stall")
    late = (504, LATE, "timeout_first_event")
    yield Cell(phase, "stall", "falls silent", stalls, *late, deadline="first_event", streams=S)
    pings = stream(*(Chunk(raw=": ping\n\n", wait=0.02) for _ in range(500)))
    yield Cell(phase, "stall", "sends nothing but comments", pings, *late, deadline="first_event", streams=S)
    garbage = stream(Chunk(data="{not JSON"), *PIECES)
    yield Cell(
        phase, "malformed", "sends an event that is not JSON", garbage, 502, FAILED, "malformed", True, streams=S
    )
    yield Cell(phase, "slow", "takes its time", stream(Chunk(text="one", wait=PAUSE), *PIECES[1:]), streams=S)
    told = stream(Chunk(data=IN_BAND_429))
    yield Cell(phase, "429", "sends the error in the stream", told, 429, FULL, "rate_limited", True, streams=S)
    told = stream(Chunk(data=IN_BAND_500))
    yield Cell(phase, "5xx", "sends the error in the stream", told, 502, FAILED, "unavailable", True, streams=S)
    page = stream(Chunk(raw=HTML + "\n\n"), finish_reason="", done=False)
    yield Cell(phase, "HTML", "goes on with a page", page, 502, FAILED, "incomplete", True, streams=S)


def mid_stream() -> Iterator[Cell]:
    phase = "mid-stream"
    middle = ROLE + 1
    resets = stream(*PIECES, events=middle, how="reset")
    yield Cell(phase, "reset", "resets the connection", resets, 200, FAILED, "reset", streams=S)
    ends = stream(*PIECES, events=middle, framing="close")
    yield Cell(phase, "reset", "ends the answer", ends, 200, FAILED, "incomplete", streams=S)
    stalls = stream(*PIECES, events=middle, how="stall")
    yield Cell(phase, "stall", "falls silent", stalls, 200, LATE, "timeout_idle", deadline="idle", streams=S)
    garbage = stream("one", Chunk(data="{not JSON"), *PIECES[1:])
    yield Cell(phase, "malformed", "sends an event that is not JSON", garbage, 200, FAILED, "malformed", streams=S)
    framing = stream("one", Chunk(raw="data: {}\n\n"), chunk_sizes=(40,), events=middle, how="close")
    yield Cell(phase, "malformed", "breaks its chunked framing off", framing, 200, FAILED, "reset", streams=S)
    yield Cell(phase, "slow", "takes its time", stream("one", Chunk(text=" two", wait=PAUSE), " three"), streams=S)
    told = stream("one", Chunk(data=IN_BAND_429))
    yield Cell(phase, "429", "sends the error in the stream", told, 200, FULL, "rate_limited", streams=S)
    told = stream("one", Chunk(data=IN_BAND_500))
    yield Cell(phase, "5xx", "sends the error in the stream", told, 200, FAILED, "unavailable", streams=S)
    page = stream("one", Chunk(raw=HTML + "\n\n"), finish_reason="", done=False)
    yield Cell(phase, "HTML", "goes on with a page", page, 200, FAILED, "incomplete", streams=S)


def at_the_end() -> Iterator[Cell]:
    """All has been said, the `finish_reason` too; what is missing is [DONE]."""
    phase = "end"
    resets = ending(cut=Cut(after_events=LAST, how="reset"))
    yield Cell(phase, "reset", "resets the connection", resets, streams=S)
    yield Cell(phase, "reset", "ends the answer without `[DONE]`", ending(framing="close"), streams=S)
    yield Cell(phase, "stall", "falls silent", ending(cut=Cut(after_events=LAST, how="stall")), streams=S)
    unfinished = stream(*PIECES, finish_reason="")
    yield Cell(
        phase, "malformed", "sends `[DONE]` without a `finish_reason`", unfinished, 200, FAILED, "incomplete", streams=S
    )
    after = Answer(chunks=PIECES, faults=("after_done",))
    yield Cell(phase, "malformed", "sends more after `[DONE]`", after, streams=S)
    waits = Answer(chunks=PIECES, between=PAUSE)
    yield Cell(phase, "slow", "takes its time for `[DONE]`", waits, streams=S)


def whole_bodies() -> Iterator[Cell]:
    phase = "body, not streamed"
    half = {"content": TEXT, "framing": "chunked"}
    resets = Answer(**half, cut=Cut(after_bytes=60, how="reset"))  # type: ignore[arg-type]
    yield Cell(phase, "reset", "resets the connection", resets, 502, FAILED, "reset", True, streams=W)
    short = Answer(content=TEXT, cut=Cut(after_bytes=60))
    yield Cell(phase, "reset", "sends less than it announced", short, 502, FAILED, "reset", True, streams=W)
    stalls = Answer(**half, cut=Cut(after_bytes=60, how="stall"))  # type: ignore[arg-type]
    late = (504, LATE, "timeout_first_event")
    yield Cell(phase, "stall", "falls silent", stalls, *late, deadline="first_event", streams=W)
    broken = Answer(body='{"id": "chatcmpl-1", "choices": [{"index": 0, "mess')
    yield Cell(
        phase,
        "malformed",
        "sends half an object as if it were whole",
        broken,
        502,
        FAILED,
        "malformed",
        True,
        streams=W,
    )
    unfinished = Answer(content=TEXT, faults=("finish_missing",))
    yield Cell(
        phase, "malformed", "leaves out the `finish_reason`", unfinished, 502, FAILED, "incomplete", True, streams=W
    )
    yield Cell(phase, "slow", "takes its time", Answer(content=TEXT, wait_first=PAUSE), streams=W)
    yield Cell(phase, "429", "200 with the error", Answer(body=IN_BAND_429), 429, FULL, "rate_limited", True, streams=W)
    yield Cell(
        phase, "5xx", "200 with the error", Answer(body=IN_BAND_500), 502, FAILED, "unavailable", True, streams=W
    )
    page = Answer(body='{"note": "<html>"}')
    yield Cell(phase, "HTML", "sends another object", page, 502, FAILED, "malformed", True, streams=W)


def table() -> str:
    """The cells as docs/resilience.md shows them."""
    lines = [
        "| phase | fault | the provider | a single target: the client sees | attempts | with a fallback |",
        "|---|---|---|---|---|---|",
    ]
    for cell in cells():
        if cell.code is None:
            seen = "the whole answer"
        elif cell.status == 200:
            seen = f"what came, then `{cell.code}` in the stream"
        else:
            seen = f"{cell.status} `{cell.code}`"
        if cell.deadline is not None:
            seen += f", after `{cell.deadline}`"
        attempts = "`attempts`" if cell.repeated else "1"
        fallback = "answers at once" if cell.rescued else "is not asked"
        lines.append(f"| {cell.phase} | {cell.fault} | {cell.does} | {seen} | {attempts} | {fallback} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
