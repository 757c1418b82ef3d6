"""One contract for every store of kept answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from penstock.stores.base import answers as base
from penstock.stores.base.answers import Answers, Listing, NoSuchCursor
from penstock.stores.memory_answers import MemoryAnswers
from penstock.stores.sqlanswers import SqlAnswers
from penstock.types import KeptAnswer, Page
from support.databases import KINDS, Place, place_of

Test = Callable[[Answers], Awaitable[None]]
EVER = 0.0


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place | None:
    """Where the answers are; None is memory."""
    return None if request.param == "memory" else place_of(request.param, request, tmp_path)


def run(place: Place | None, test: Test) -> None:
    async def main() -> None:
        if place is None:
            await test(MemoryAnswers())
            return
        database = await place.open()
        try:
            await test(SqlAnswers(database))
        finally:
            await database.close()

    asyncio.run(main())


def an_answer(number: int = 1, scope: str = "project:a", **changes: object) -> KeptAnswer:
    body = b'{"id":"chatcmpl-%d"}' % number
    answer = KeptAnswer(scope, f"chatcmpl-{number}", "gpt-5.4", 1000.0 + number, {}, body, b"[%d]" % number)
    return msgspec.structs.replace(answer, **changes)


def ids(listing: Listing) -> list[str]:
    return [answer.id for answer in listing.answers]


def test_a_kept_answer_is_found_byte_for_byte_with_its_messages(place: Place | None) -> None:
    async def test(answers: Answers) -> None:
        kept = an_answer(metadata={"a": "b", 'quo"te\n': "\x00\\ \u00e9"}, body=bytes(range(256)), messages=b"[\x00]")
        await answers.keep([kept])
        assert await answers.find(kept.scope, kept.id, EVER) == kept
        assert await answers.find(kept.scope, "chatcmpl-2", EVER) is None

    run(place, test)


def test_nobody_of_another_scope_reaches_an_answer(place: Place | None) -> None:
    async def test(answers: Answers) -> None:
        kept = an_answer()
        await answers.keep([kept, an_answer(2)])
        for scope in ("project:b", "key:a", "", "project:%", "project:A"):
            assert await answers.find(scope, kept.id, EVER) is None
            assert await answers.list(scope, Page(), EVER) == Listing((), False)
            assert await answers.edit(scope, kept.id, {"taken": "over"}, EVER) is None
            assert await answers.drop(scope, kept.id, EVER) is False
            with pytest.raises(NoSuchCursor):
                await answers.list(scope, Page(after=kept.id), EVER)
        assert await answers.find(kept.scope, kept.id, EVER) == kept

    run(place, test)


def test_the_same_id_in_two_scopes_is_two_answers_and_in_one_the_later(place: Place | None) -> None:
    async def test(answers: Answers) -> None:
        one, other = an_answer(), an_answer(scope="project:b", body=b"{}")
        await answers.keep([one, other])
        later = an_answer(kept_at=2000.0, model="other", metadata={"now": "this"}, body=b'{"later":1}')
        await answers.keep([later])
        assert await answers.find(one.scope, one.id, EVER) == later
        assert await answers.find(other.scope, other.id, EVER) == other
        await answers.keep([one, later])  # and within one call
        assert await answers.find(one.scope, one.id, EVER) == later

    run(place, test)


@pytest.mark.parametrize("descending", [False, True])
def test_pages_follow_each_other_in_the_order_of_time(place: Place | None, descending: bool) -> None:
    async def test(answers: Answers) -> None:
        # two were kept at the same time
        kept = [an_answer(number, kept_at=1000.0 + max(number, 4)) for number in (5, 3, 1, 4, 2)]
        await answers.keep([*kept, an_answer(9, scope="project:b")])
        wanted = [f"chatcmpl-{number}" for number in (1, 2, 3, 4, 5)]
        if descending:
            wanted.reverse()
        seen: list[str] = []
        more = True
        while more:
            page = Page(2, descending, seen[-1] if seen else "")
            listing = await answers.list("project:a", page, EVER)
            assert all(answer.messages == b"" for answer in listing.answers)
            seen += ids(listing)
            more = listing.more
        assert seen == wanted
        assert await answers.list("project:a", Page(5, descending), EVER) == await answers.list(
            "project:a", Page(100, descending), EVER
        )

    run(place, test)


def test_a_page_after_an_answer_that_is_not_there_is_told_apart_from_an_empty_one(place: Place | None) -> None:
    async def test(answers: Answers) -> None:
        await answers.keep([an_answer()])
        assert await answers.list("project:a", Page(after="chatcmpl-1"), EVER) == Listing((), False)
        with pytest.raises(NoSuchCursor):
            await answers.list("project:a", Page(after="chatcmpl-7"), EVER)

    run(place, test)


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        (Page(model="gpt-5.4"), [1, 2, 4]),
        (Page(model="GPT-5.4"), []),
        (Page(metadata={"a": "1"}), [1, 2]),
        (Page(metadata={"a": "1", "b": "2"}), [1]),
        (Page(metadata={"b": "2", "a": "1"}, model="gpt-5.4"), [1]),
        (Page(metadata={"A": "1"}), []),
        (Page(metadata={"a": ""}), []),
        (Page(metadata={"": ""}), []),
        (Page(metadata={"a": "1\n"}), []),
        (Page(metadata={"%": "_"}), [4]),
        (Page(metadata={"_": "%"}), []),
        (Page(metadata={'"a"': ':"1"'}), [3]),
        (Page(metadata={":": ","}), []),
        (Page(1, metadata={"a": "1"}), [1]),
    ],
)
def test_a_page_may_be_of_one_model_and_of_all_that_have_some_metadata(
    place: Place | None, page: Page, wanted: list[int]
) -> None:
    async def test(answers: Answers) -> None:
        await answers.keep(
            [
                an_answer(1, metadata={"a": "1", "b": "2"}),
                an_answer(2, metadata={"a": "1", "b": "3", "c": 'a":"2'}),
                an_answer(3, model="other", metadata={'"a"': ':"1"', "x": ":", ",": "y"}),
                an_answer(4, metadata={"%": "_"}),
            ]
        )
        assert ids(await answers.list("project:a", page, EVER)) == [f"chatcmpl-{number}" for number in wanted]

    run(place, test)


def test_a_page_of_large_answers_is_shorter_and_says_that_more_follow(
    place: Place | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PAGE_BYTES", 1000)

    async def test(answers: Answers) -> None:
        sizes = (400, 600, 1, 5000, 10)
        await answers.keep([an_answer(number, body=b"x" * size) for number, size in enumerate(sizes)])
        pages, after = [], ""
        while True:
            listing = await answers.list("project:a", Page(100, after=after), EVER)
            pages.append([len(answer.body) for answer in listing.answers])
            if not listing.more:
                break
            after = listing.answers[-1].id
        assert pages == [[400, 600], [1], [5000], [10]]

    run(place, test)


def test_metadata_is_replaced_and_nothing_else_changes(place: Place | None) -> None:
    async def test(answers: Answers) -> None:
        kept = an_answer(metadata={"old": "1"})
        await answers.keep([kept])
        for metadata in ({"new": "2", "more": "3"}, {}):
            wanted = msgspec.structs.replace(kept, metadata=metadata)
            edited = await answers.edit(kept.scope, kept.id, metadata, EVER)
            assert edited is not None
            assert msgspec.structs.replace(edited, messages=kept.messages) == wanted
            assert await answers.find(kept.scope, kept.id, EVER) == wanted

    run(place, test)


def test_an_answer_is_dropped_once(place: Place | None) -> None:
    async def test(answers: Answers) -> None:
        await answers.keep([an_answer(1), an_answer(2)])
        assert await answers.drop("project:a", "chatcmpl-1", EVER) is True
        assert await answers.drop("project:a", "chatcmpl-1", EVER) is False
        assert ids(await answers.list("project:a", Page(), EVER)) == ["chatcmpl-2"]

    run(place, test)


def test_what_is_too_old_is_not_there_for_anybody_and_is_swept_some_at_a_time(place: Place | None) -> None:
    async def test(answers: Answers) -> None:
        await answers.keep([an_answer(number) for number in (1, 2, 3, 4)])
        await answers.keep([an_answer(1, scope="key:b")])
        since = 1003.0
        assert ids(await answers.list("project:a", Page(), since)) == ["chatcmpl-3", "chatcmpl-4"]
        assert await answers.find("project:a", "chatcmpl-2", since) is None
        assert await answers.edit("project:a", "chatcmpl-2", {}, since) is None
        assert await answers.drop("project:a", "chatcmpl-2", since) is False
        assert [await answers.sweep(since, 2) for _ in range(3)] == [2, 1, 0]
        assert ids(await answers.list("project:a", Page(), EVER)) == ["chatcmpl-3", "chatcmpl-4"]

    run(place, test)
