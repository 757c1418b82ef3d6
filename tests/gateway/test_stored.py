"""Chat completions that are kept, and the routes that give them back: each caller its project's own."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from penstock.config import AnswersConfig, Config
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.types import Principal
from support.gateway import ALICE, KEY, Answered, Running, chat, gateway, read_answer, request, run

BOB = Principal("key_bob", "bob")
COLLEAGUE = Principal("key_colleague", "colleague", project_id="proj_1")
OTHER = Principal("key_other", "other", project_id="proj_1")
KEEPS = Principal("key_keeps", "keeps", project_id="proj_2", keeps_content=True)
KEYS = {
    KEY: ALICE,
    "sk-bob-0123456789abcdef": BOB,
    "sk-colleague-0123456789abcdef": COLLEAGUE,
    "sk-other-0123456789abcdef": OTHER,
    "sk-keeps-0123456789abcdef": KEEPS,
}
BOBS, COLLEAGUES, OTHERS, KEEPERS = list(KEYS)[1:]
PATH = "/v1/chat/completions"

Test = Callable[[Running, FakeUpstream], Awaitable[None]]


def with_gateway(test: Test, script: Any = None, **answers: Any) -> None:
    async def main() -> None:
        config = Config(answers=AnswersConfig(**answers))
        async with FakeUpstream(script) as upstream, gateway(upstream.base_url, keys=KEYS, config=config) as running:
            await test(running, upstream)

    run(main())


async def get(running: Running, path: str, key: str = KEY) -> Answered:
    return await running.ask(request("GET", PATH + path, key))


async def counts(running: Running) -> dict[str, float]:
    """Answers that were to be kept, by what became of them."""
    series = (*running.kin.answers.series(), *running.telemetry.metrics.series(0, 0))
    return {one.labels[0]: one.value for one in series if one.name == "penstock_kept_answers_total"}


def chunks(body: bytes) -> list[Any]:
    events = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event]
    assert events[-1] == b"[DONE]"
    return [json.loads(event) for event in events[:-1]]


def test_what_is_stored_is_found_as_its_client_got_it_byte_for_byte() -> None:
    async def test(running: Running, upstream: FakeUpstream) -> None:
        made = await running.chat(store=True)
        found = await get(running, f"/{made.json()['id']}")
        assert (made.status, found.status) == (200, 200)
        assert found.body == made.body
        assert json.loads(upstream.seen[0].body).keys() == {"model", "messages"}

    with_gateway(test)


def test_metadata_is_in_the_answer_and_in_what_is_kept_and_is_not_sent_upstream() -> None:
    async def test(running: Running, upstream: FakeUpstream) -> None:
        metadata = {"purpose": "test", "\u00e9": '"'}
        made = await running.chat(store=True, metadata=metadata)
        assert made.json()["metadata"] == metadata
        assert (await get(running, f"/{made.json()['id']}")).body == made.body
        assert "metadata" not in json.loads(upstream.seen[0].body)

    with_gateway(test)


@pytest.mark.parametrize("usage_asked", [False, True])
def test_a_stream_is_found_whole_after_its_end(usage_asked: bool) -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        asked: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage_asked else {}
        made = await running.chat(store=True, stream=True, n=2, **asked)
        parts = chunks(made.body)
        found = (await get(running, f"/{parts[0]['id']}")).json()
        assert found["object"] == "chat.completion"
        for name in ("id", "created", "model"):
            assert found[name] == parts[0][name]
        for index in (0, 1):
            said = [one for part in parts for one in part["choices"] if one["index"] == index]
            text = "".join(one["delta"].get("content") or "" for one in said)
            assert found["choices"][index] == {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": said[-1]["finish_reason"],
            }
        assert found["usage"]["total_tokens"] > 0
        if usage_asked:
            assert found["usage"] == parts[-1]["usage"]

    with_gateway(test)


@pytest.mark.parametrize("members", [{}, {"store": False}, {"store": None}])
@pytest.mark.parametrize("stream", [False, True])
def test_what_was_not_to_be_stored_is_a_404(members: dict[str, Any], stream: bool) -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        made = await running.chat(stream=stream, **members)
        name = chunks(made.body)[0]["id"] if stream else made.json()["id"]
        found = await get(running, f"/{name}")
        assert (found.status, found.error["code"]) == (404, "not_found")
        assert (await get(running, "")).json()["data"] == []

    with_gateway(test)


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_of_a_project_that_keeps_its_content_is_kept(stream: bool) -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        await running.chat(KEEPERS, stream=stream)
        assert len((await get(running, "", KEEPERS)).json()["data"]) == 1

    with_gateway(test)


@pytest.mark.parametrize("path", ["/{}", "/{}/messages"])
def test_anothers_answer_is_a_404_and_a_projects_is_all_its_keys(path: str) -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        alices = (await running.chat(store=True)).json()["id"]
        projects = (await running.chat(COLLEAGUES, store=True)).json()["id"]
        assert (await get(running, path.format(alices))).status == 200
        assert (await get(running, path.format(projects), OTHERS)).status == 200
        for name, key in ((alices, BOBS), (alices, COLLEAGUES), (projects, KEY), (projects, KEEPERS)):
            assert (await get(running, path.format(name), key)).status == 404
            assert (await running.ask(request("DELETE", f"{PATH}/{name}", key))).status == 404
            body = b'{"metadata":{"a":"b"}}'
            assert (await running.ask(request("POST", f"{PATH}/{name}", key, body))).status == 404
            listed = [one["id"] for one in (await get(running, "", key)).json()["data"]]
            assert name not in listed
        assert [one["id"] for one in (await get(running, "", OTHERS)).json()["data"]] == [projects]
        assert (await get(running, "", BOBS)).json()["data"] == []

    with_gateway(test)


def test_answers_are_listed_by_pages() -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        made = [(await running.chat(store=True, model=model, metadata={"k": model})).json() for model in "ababa"]
        ids = [one["id"] for one in made]
        first = (await get(running, "?limit=2")).json()
        assert first == {
            "object": "list",
            "data": made[:2],
            "first_id": ids[0],
            "last_id": ids[1],
            "has_more": True,
        }
        for query, wanted, more in (
            ("", ids, False),
            (f"?limit=2&after={ids[1]}", ids[2:4], True),
            (f"?limit=2&after={ids[3]}", ids[4:], False),
            (f"?after={ids[4]}", [], False),
            ("?order=desc&limit=3", ids[:1:-1], True),
            ("?model=b", [ids[1], ids[3]], False),
            ("?metadata[k]=a&limit=2", [ids[0], ids[2]], True),
            ("?metadata%5Bk%5D=b", [ids[1], ids[3]], False),
            ("?metadata[k]=a&metadata[x]=y", [], False),
            ("?metadata[k]=", [], False),
            ("?metadata=&model=&after=", ids, False),
        ):
            page = (await get(running, query)).json()
            assert ([one["id"] for one in page["data"]], page["has_more"]) == (wanted, more), query
        empty = (await get(running, "?model=none")).json()
        assert (empty["first_id"], empty["last_id"]) == ("", "")

    with_gateway(test)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=", "limit"),
        ("metadata=x", "metadata"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("order=up", "order"),
        ("&".join(f"a{n}=1" for n in range(100)), None),
    ],
)
def test_a_page_that_makes_no_sense_is_a_bad_request(query: str, param: str | None) -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        answer = await get(running, f"?{query}")
        assert (answer.status, answer.error["param"]) == (400, param)

    with_gateway(test)


def test_a_page_after_an_answer_that_is_not_there_is_a_404() -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        name = (await running.chat(store=True)).json()["id"]
        for path in ("?after=chatcmpl-none", f"/{name}/messages?after=chatcmpl-none"):
            answer = await get(running, path)
            assert (answer.status, answer.error["param"]) == (404, "after")

    with_gateway(test)


def test_the_messages_of_an_answer_are_numbered_and_paged() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}], "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "7", "tool_call_id": "c"},
    ]

    async def test(running: Running, _upstream: FakeUpstream) -> None:
        name = (await running.chat(store=True, messages=messages)).json()["id"]
        ids = [f"{name}-{number}" for number in range(4)]
        page = (await get(running, f"/{name}/messages")).json()
        assert page.keys() == {"object", "data", "first_id", "last_id", "has_more"}
        assert [one["id"] for one in page["data"]] == ids
        assert page["data"][0] == {
            "refusal": None,
            "role": "system",
            "content": "Be brief.",
            "id": ids[0],
            "content_parts": None,
        }
        assert page["data"][1]["content"] is None
        assert page["data"][1]["content_parts"] == messages[1]["content"]
        assert page["data"][2]["tool_calls"] == messages[2]["tool_calls"]
        assert page["data"][3]["tool_call_id"] == "c"
        for query, wanted, more in (
            ("limit=2", ids[:2], True),
            (f"limit=2&after={ids[1]}", ids[2:], False),
            ("order=desc&limit=3", ids[:0:-1], True),
            (f"order=desc&after={ids[1]}", ids[:1], False),
        ):
            page = (await get(running, f"/{name}/messages?{query}")).json()
            assert ([one["id"] for one in page["data"]], page["has_more"]) == (wanted, more), query

    with_gateway(test)


def test_metadata_is_replaced_and_cleared() -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        made = (await running.chat(store=True, metadata={"old": "1"})).json()
        path = f"{PATH}/{made['id']}"
        for body, wanted in ((b'{"metadata":{"new":"2"}}', {"new": "2"}), (b'{"metadata":{}}', None)):
            edited = await running.ask(request("POST", path, body=body))
            shown = {**made, "metadata": wanted}
            assert (edited.status, edited.json()) == (200, shown)
            assert (await get(running, f"/{made['id']}")).json() == shown

    with_gateway(test)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"{}", "metadata", "missing_required_parameter"),
        (b'{"metadata":[]}', "metadata", "invalid_type"),
        (b'{"metadata":{"a":1}}', "metadata", "invalid_type"),
        (b'{"metadata":{"a":"%b"}}' % (b"x" * 513), "metadata.a", "string_above_max_length"),
        (b'{"metadata":{}', None, None),
        (b"[" * 100_000, None, None),
        (b'{"metadata":{"a":"\xff"}}', None, None),
        (b'{"metadata":{},"metadata":{}}', "metadata", None),
    ],
)
def test_metadata_in_another_form_is_a_bad_request(body: bytes, param: str | None, code: str | None) -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        made = (await running.chat(store=True)).json()
        answer = await running.ask(request("POST", f"{PATH}/{made['id']}", body=body))
        assert answer.status == 400
        if param is not None:
            assert (answer.error["param"], answer.error["code"]) == (param, code)

    with_gateway(test)


@pytest.mark.parametrize("path", ["", "/chatcmpl-1", "/chatcmpl-1/messages"])
def test_a_key_that_may_not_chat_reaches_nothing_that_is_kept(path: str) -> None:
    embeds = msgspec.structs.replace(ALICE, endpoints=("embeddings",))

    async def main() -> None:
        async with FakeUpstream() as upstream, gateway(upstream.base_url, keys={KEY: embeds}) as running:
            assert (await get(running, path)).status == 403

    run(main())


def test_an_answer_is_deleted_once() -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        name = (await running.chat(store=True)).json()["id"]
        deleted = await running.ask(request("DELETE", f"{PATH}/{name}"))
        assert deleted.json() == {"object": "chat.completion.deleted", "id": name, "deleted": True}
        assert (await running.ask(request("DELETE", f"{PATH}/{name}"))).status == 404
        assert (await get(running, f"/{name}")).status == 404

    with_gateway(test)


def test_an_answer_that_broke_off_is_not_kept() -> None:
    broken = [Answer(chunks=("one", Chunk(data='{"error":{"message":"lost","type":"server_error"}}')))]

    async def test(running: Running, _upstream: FakeUpstream) -> None:
        answer = await running.chat(store=True, stream=True)
        assert b'"error"' in answer.body
        assert (await get(running, "")).json()["data"] == []
        assert await counts(running) == {}

    with_gateway(test, broken)


def test_storing_may_be_switched_off_and_is_then_refused_in_words() -> None:
    async def test(running: Running, upstream: FakeUpstream) -> None:
        refused = await running.chat(store=True)
        assert (refused.status, refused.error["param"]) == (400, "store")
        assert upstream.seen == []
        assert (await running.chat(KEEPERS)).status == 200
        assert (await get(running, "", KEEPERS)).json()["data"] == []

    with_gateway(test, store=False)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_above_the_bound_is_given_and_not_kept(stream: bool) -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        answer = await running.chat(store=True, stream=stream)
        assert answer.status == 200
        assert b"x" * 2000 in answer.body
        assert (await get(running, "")).json()["data"] == []
        assert await counts(running) == {"too_large": 1}

    with_gateway(test, [Answer(chunks=("x" * 2000,))], max_bytes=1024)


def test_what_is_too_old_is_gone() -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        name = (await running.chat(store=True)).json()["id"]
        running.kin.answers.config = msgspec.structs.replace(running.kin.answers.config, retention_days=1e-12)
        assert (await get(running, f"/{name}")).status == 404
        assert (await get(running, "")).json()["data"] == []

    with_gateway(test)


def test_a_head_and_an_id_in_percents_are_taken() -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        name = (await running.chat(store=True)).json()["id"]
        encoded = "".join(f"%{ord(letter):02x}" for letter in name)
        assert (await get(running, f"/{encoded}")).status == 200
        async with running.client() as client:
            await client.send(request("HEAD", f"{PATH}/{name}") + chat())
            assert (await read_answer(client, head_only=True)).status == 200
            assert (await read_answer(client)).status == 200

    with_gateway(test)


@pytest.mark.parametrize("path", ["/", "/x/y", "/x/messages/y", "//messages", "/messages/"])
def test_other_paths_below_are_no_routes(path: str) -> None:
    async def test(running: Running, _upstream: FakeUpstream) -> None:
        answer = await get(running, path)
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")

    with_gateway(test)
