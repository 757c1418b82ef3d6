"""Questions to the parent: answered by number, given up in time, and not put where nobody takes them."""

from __future__ import annotations

import asyncio

from penstock import link
from penstock.gateway import worker as room
from penstock.gateway.questions import Questions
from penstock.gateway.worker import Worker


class Parent:
    """Takes messages while it is there."""

    def __init__(self) -> None:
        self.there = True
        self.messages: list[link.Message] = []
        self.questions: Questions[link.AnswersFound] = Questions(self.send, seconds=0.02)

    def send(self, message: link.Message) -> bool:
        self.messages.append(message)
        return self.there

    async def ask(self) -> link.AnswersFound | None:
        return await self.questions.ask(lambda ref: link.FindAnswer(ref, "key:a", "x"))

    def answer(self, ref: int) -> link.AnswersFound:
        found = link.AnswersFound(ref)
        self.questions.answered(ref, found)
        return found


def test_each_question_gets_its_own_answer_whatever_the_order() -> None:
    async def main() -> None:
        parent = Parent()
        asking = [asyncio.create_task(parent.ask()) for _ in range(3)]
        await asyncio.sleep(0)
        given = {ref: parent.answer(ref) for ref in (3, 1, 2)}
        assert await asyncio.gather(*asking) == [given[1], given[2], given[3]]

    asyncio.run(main())


def test_a_parent_that_is_silent_or_gone_gives_no_answer_and_a_late_one_goes_to_nobody() -> None:
    async def main() -> None:
        parent = Parent()
        assert await parent.ask() is None
        parent.answer(1)
        parent.there = False
        assert await parent.ask() is None
        asking = asyncio.create_task(parent.ask())
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for ref in (2, 3, 99):
            parent.answer(ref)

    asyncio.run(main())


class Channel(link.Channel):
    """A link of which the other end takes nothing."""

    def __init__(self) -> None:
        super().__init__(lambda _message: None, lambda: None)
        self.waiting = 0
        self.sent: list[link.Message] = []

    @property
    def unsent(self) -> int:
        return self.waiting

    def send(self, message: link.Message) -> None:
        self.sent.append(message)


def test_answers_are_not_handed_to_a_parent_that_takes_nothing() -> None:
    async def main() -> None:
        worker = Worker()
        answer = link.KeepAnswer("key:a", b"{}", b"[]", {})
        assert worker._keep(answer) is False
        worker.channel = channel = Channel()
        assert worker._keep(answer) is True
        channel.waiting = room.MAX_UNSENT + 1
        assert worker._keep(answer) is False
        assert channel.sent == [answer]

    asyncio.run(main())
