"""Chat completions in line for their store: written behind, found at once, kept through an outage, lost with a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import pytest

from penstock.config import AnswersConfig
from penstock.control import answers as room
from penstock.control.answers import KeptAnswers
from penstock.link import AnswersFound, DropAnswer, FindAnswer, KeepAnswer, ListAnswers
from penstock.stores.base import StoreUnavailable
from penstock.stores.memory_answers import MemoryAnswers
from penstock.types import KeptAnswer, Page

DAY = 86_400.0


class Store(MemoryAnswers):
    """A store that goes away, and one whose writes wait."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.batches: list[int] = []
        self.tried = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def keep(self, answers: Sequence[KeptAnswer]) -> None:
        self.tried.set()
        await self.open.wait()
        if self.away:
            raise StoreUnavailable("it is away")
        self.batches.append(len(answers))
        await super().keep(answers)


class Scene:
    """The parent's side, with a store and a clock of the test's."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.store = Store()
        self.kept = KeptAnswers(AnswersConfig(), lambda: self.now)

    def keep(self, number: int = 1, body: bytes | None = None) -> None:
        given = body if body is not None else b'{"id":"chatcmpl-%d","model":"m"}' % number
        self.kept.receive(KeepAnswer("key:a", given, b"[]", {}), self.nobody)

    def nobody(self, _found: AnswersFound) -> None:
        raise AssertionError("what is to be kept is not answered")

    async def ask(self, question: FindAnswer | ListAnswers | DropAnswer) -> AnswersFound:
        found: asyncio.Future[AnswersFound] = asyncio.get_running_loop().create_future()
        self.kept.receive(question, found.set_result)
        return await asyncio.wait_for(found, 10)

    async def ids(self) -> list[str]:
        found = await self.ask(ListAnswers(7, "key:a", Page(limit=100)))
        assert (found.ref, found.available) == (7, True)
        return [answer.id for answer in found.answers]

    def counts(self) -> dict[str, float]:
        return {one.labels[0]: one.value for one in self.kept.series()}


def run(test: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        scene = Scene()
        running = asyncio.create_task(scene.kept.run(scene.store))
        try:
            await test(scene)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_what_was_handed_over_is_found_though_it_is_not_written_yet() -> None:
    async def test(scene: Scene) -> None:
        scene.store.open.clear()
        scene.keep(1)
        asking = asyncio.create_task(scene.ids())
        await scene.store.tried.wait()
        assert not asking.done()
        scene.store.open.set()
        assert await asking == ["chatcmpl-1"]
        assert scene.counts() == {"kept": 1}

    run(test)


def test_many_are_written_together() -> None:
    async def test(scene: Scene) -> None:
        for number in range(250):
            scene.keep(number)
        assert len(await scene.ids()) == 100
        assert scene.store.batches == [100, 100, 50]

    run(test)


def test_a_store_that_is_away_is_told_once_and_gets_all_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "RETRY", 0.001)
    monkeypatch.setattr(room, "SECONDS", 0.05)

    async def test(scene: Scene) -> None:
        scene.store.away = True
        for number in range(3):
            scene.keep(number)
        for question in (FindAnswer(1, "key:a", "chatcmpl-1"), ListAnswers(2, "key:a", Page())):
            assert await scene.ask(question) == AnswersFound(question.ref, available=False)
        scene.store.away = False
        assert await scene.ids() == ["chatcmpl-0", "chatcmpl-1", "chatcmpl-2"]
        assert scene.counts() == {"kept": 3}

    with caplog.at_level(logging.WARNING, "penstock.answers"):
        run(test)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "it is away" in caplog.records[0].message


def test_the_line_is_bounded_and_what_is_lost_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LINE_BYTES", 3 * 33)
    monkeypatch.setattr(room, "RETRY", 0.001)

    async def test(scene: Scene) -> None:
        scene.store.away = True
        for number in range(5):
            scene.keep(number)
        scene.store.away = False
        assert await scene.ids() == ["chatcmpl-0", "chatcmpl-1", "chatcmpl-2"]
        assert scene.counts() == {"kept": 3, "lost": 2}
        scene.keep(9)
        assert "chatcmpl-9" in await scene.ids()

    run(test)


UNFIT = (b"{}", b'{"id":""}', b'{"id":7,"model":"m"}', b'{"id":"a\\u0000","model":"m"}', b'{"id":"a","model":""}', b"{")
LONG = (b'{"id":"%b","model":"m"}' % (b"x" * 257), b'{"id":"a","model":"%b"}' % (b"x" * 257))
BROKEN = (b"\xff", b'{"id":"\xff","model":"m"}', b'{"id":"\\ud83d","model":"m"}', b'{"id":' + b"[" * 100_000)


@pytest.mark.parametrize("body", [*UNFIT, *LONG, *BROKEN], ids=lambda body: body[:16].decode("latin-1"))
def test_an_answer_that_could_not_be_asked_for_is_not_kept(body: bytes) -> None:
    async def test(scene: Scene) -> None:
        scene.keep(body=body)
        assert await scene.ids() == []
        assert scene.counts() == {"unfit": 1}

    run(test)


def test_what_is_older_than_the_retention_is_gone_and_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SWEPT", 2)

    async def test(scene: Scene) -> None:
        for number in range(5):
            scene.keep(number)
        assert len(await scene.ids()) == 5
        scene.now += 30 * DAY
        assert len(await scene.ids()) == 5
        scene.keep(7)
        scene.now += 1
        assert await scene.ids() == ["chatcmpl-7"]
        assert not (await scene.ask(DropAnswer(1, "key:a", "chatcmpl-1"))).there
        await scene.kept.sweep(scene.store)
        assert [name for _, name in scene.store._answers] == ["chatcmpl-7"]

    run(test)


def test_a_server_that_ends_lets_what_is_in_line_be_written_and_says_what_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "RETRY", 0.001)

    async def test(scene: Scene) -> None:
        scene.keep(1)
        await scene.kept.close(10)
        assert scene.counts() == {"kept": 1}
        scene.store.away = True
        scene.keep(2)
        await scene.kept.close(0.02)

    run(test)
    assert "1 chat completions that were to be kept are lost" in caplog.records[-1].message


def test_before_the_store_is_open_nothing_is_found_and_all_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SECONDS", 0.02)

    async def main() -> None:
        scene = Scene()
        assert await scene.ask(FindAnswer(1, "key:a", "x")) == AnswersFound(1, available=False)
        scene.keep(1)
        assert await scene.ask(FindAnswer(1, "key:a", "x")) == AnswersFound(1, available=False)
        running = asyncio.create_task(scene.kept.run(scene.store))
        assert await scene.ids() == ["chatcmpl-1"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
