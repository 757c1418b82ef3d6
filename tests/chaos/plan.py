"""The plan of a chaos run, all of it from one seed: what every upstream does to every call, what every client does.

What an upstream does depends on the request and on how often that request has come to it, not on time, so that the same
seed makes the same faults however fast the machine is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Literal

from chaos.caller import HangUp, Wish
from penstock.fake_upstream import Answer, Chunk, Cut, Fault

Said = tuple[str, ...]

POLICIES = ("ordered", "weighted", "least_outstanding", "lowest_latency", "prefix_affinity")
PAGE = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>cloud</body></html>"
HTML = {"content-type": "text/html"}
GARBAGE = 'data: {"id": "chatcmpl-1", "choices": [{"index": 0, "del\n\n'


def words(random: Random) -> Said:
    """An answer in pieces each of which says how many there are, so that one that lacks some is seen."""
    count = random.randint(1, 12)
    return tuple(f"{number}/{count} " for number in range(1, count + 1))


def is_whole(text: str) -> bool:
    """Whether these are all the words of an answer."""
    found = text.split()
    return bool(found) and found == [f"{number}/{len(found)}" for number in range(1, len(found) + 1)]


def is_part(text: str) -> bool:
    """Whether these are the first words of an answer, the last one possibly not whole, or none."""
    found = text.split()
    if not found:
        return True
    count = found[0].rpartition("/")[2] or "1"
    told = " ".join(f"{number}/{count}" for number in range(1, int(count) + 1))
    return told.startswith(" ".join(found))


def _plain(random: Random, said: Said) -> Answer:
    return Answer(chunks=said)


def _slow(random: Random, said: Said) -> Answer:
    wait = random.uniform(0.0, 0.2)
    return Answer(chunks=said, wait=wait, wait_first=wait / 2, between=random.uniform(0.001, 0.02))


def _in_odd_pieces(random: Random, said: Said) -> Answer:
    sizes = tuple(random.randint(1, 90) for _ in range(5))
    return Answer(chunks=said, chunk_sizes=sizes, write=sizes[::-1])


def _at_once(random: Random, said: Said) -> Answer:
    return Answer(chunks=said, write="whole")


def _dropped_after(random: Random, said: Said) -> Answer:
    return Answer(chunks=said, end=random.choice(("close", "drop", "reset")))


def _reset_first(random: Random, said: Said) -> Answer:
    return Answer(raw="", wait=random.uniform(0.0, 0.05), end=random.choice(("drop", "reset")))


def _error(random: Random, said: Said) -> Answer:
    return Answer(status=random.choice((500, 502, 503, 504, 529)), wait=random.uniform(0.0, 0.05))


def _page(random: Random, said: Said) -> Answer:
    return Answer(status=random.choice((200, 502)), body=PAGE, headers=HTML)


def _limited(random: Random, said: Said) -> Answer:
    return Answer(status=429, retry_after=random.choice((None, 0.05, 0.3)))


def _stalled(random: Random, said: Said) -> Answer:
    at = random.choice(("head", "first", "midst"))
    if at == "head":
        return Answer(wait="forever")
    if at == "first":
        return Answer(wait_first="forever")
    return Answer(chunks=said, cut=Cut(after_events=random.randint(1, 4), how="stall"))


def _cut(random: Random, said: Said) -> Answer:
    how: Literal["close", "reset"] = random.choice(("close", "reset"))
    if random.random() < 0.5:
        return Answer(chunks=said, cut=Cut(after_events=random.randint(0, 8), how=how), between=0.002)
    return Answer(chunks=said, cut=Cut(after_bytes=random.randint(0, 900), how=how))


def _garbled_event(random: Random, said: Said) -> Answer:
    pieces: list[str | Chunk] = list(said)
    pieces.insert(random.randint(0, len(pieces)), Chunk(raw=GARBAGE))
    return Answer(chunks=tuple(pieces))


def _garbled_http(random: Random, said: Said) -> Answer:
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    raw = random.choice((f"{head}content-length: many\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", f"{head}\x00\r\n\r\n", head))
    return Answer(raw=raw, end="drop")


def _half(random: Random, said: Said) -> Answer:
    return Answer(chunks=said, body='{"id": "chatcmpl-1", "object": "chat.completion", "choi')


def _unfinished(random: Random, said: Said) -> Answer:
    return Answer(chunks=said, finish_reason="", done=random.random() < 0.5)


def _error_within(random: Random, said: Said) -> Answer:
    return Answer(chunks=said, faults=(random.choice(("error_chunk", "error_event", "error_text")),))


def _refused(random: Random, said: Said) -> Answer:
    fault = Fault("The prompt was found wanting.", code="content_policy_violation")
    return Answer(status=400, error=fault)


# How often out of a hundred; the 429s are for some upstreams alone, since one takes the pressure off for a minute.
FAULTS: tuple[tuple[Callable[[Random, Said], Answer], float], ...] = (
    (_plain, 38),
    (_slow, 15),
    (_in_odd_pieces, 4),
    (_at_once, 4),
    (_dropped_after, 4),
    (_reset_first, 4),
    (_error, 5),
    (_page, 3),
    (_stalled, 2),
    (_cut, 6),
    (_garbled_event, 3),
    (_garbled_http, 3),
    (_half, 2),
    (_unfinished, 3),
    (_error_within, 3),
    (_refused, 1),
)
LIMITED = (*FAULTS, (_limited, 4.0))


class Plan:
    """What happens, by the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _random(self, *what: object) -> Random:
        return Random(" ".join(map(str, (self.seed, *what))))

    def answer(self, upstream: int, marker: str, visit: int, begun: str = "") -> Answer:
        """What an upstream does to a request that comes to it for the `visit`-th time, with an answer that has `begun`.

        All say the same to one request, so that one can go on where another broke off.
        """
        random = self._random("upstream", upstream, marker, visit)
        table = LIMITED if upstream >= 3 else FAULTS
        (make,) = random.choices([row[0] for row in table], [row[1] for row in table])
        whole = words(self._random("words", marker))
        return make(random, whole[len(begun.split()) :])

    def wishes(self, client: int) -> Iterator[tuple[Wish, float]]:
        """The requests of one client, each with the seconds for which it thinks before it."""
        number = 0
        while True:
            marker = f"c{client:03d}-{number:06d}"
            number += 1
            random = self._random("client", marker)
            stream = random.random() < 0.6
            wish = Wish(
                marker,
                f"m-{random.choice(POLICIES)}",
                stream,
                hang_up=self._hang_up(random) if random.random() < 0.12 else None,
                slow=random.uniform(0.05, 0.3) if random.random() < 0.03 else 0.0,
                patience=random.uniform(0.1, 1.5) if random.random() < 0.05 else None,
            )
            yield wish, random.expovariate(4.0)

    def absences(self, upstream: int) -> Iterator[tuple[float, float]]:
        """For how long an upstream is there, and then away; nobody listens while it is."""
        random = self._random("absences", upstream)
        while True:
            yield random.uniform(2.0, 12.0), random.uniform(0.2, 1.5)

    def _hang_up(self, random: Random) -> HangUp:
        reset = random.random() < 0.5
        kind = random.random()
        if kind < 0.1:
            return HangUp(part=random.uniform(0.05, 0.95), reset=reset)
        if kind < 0.3:
            return HangUp(after=0.0, reset=reset)
        if kind < 0.7:
            return HangUp(after=random.expovariate(5.0), reset=reset)
        return HangUp(size=random.randint(1, 2500), reset=reset)
