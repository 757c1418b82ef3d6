"""Answers that break off when the client has their beginning: finished elsewhere as one stream, or ended in error."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
import openai
import pytest
from scene import Idle

from penstock.config import Breaker, Model, Retries, TargetConfig
from penstock.config.shapes import Continuing
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Cut, Tokens, ToolCall
from penstock.fake_upstream.server import Scripted
from penstock.types import Record
from support.gateway import KEY, LENIENT, Answered, Running, chat, gateway, request, run, until, upstream

TEXT = "A penstock is the gated pipe that feeds a turbine: «full pressure», controlled flow. 🌊"
PIECES = ("A penstock is ", "the gated pipe ", "that feeds a ", "turbine: «full ", "pressure», controlled flow. 🌊")
ROLE = 1  # events before the first piece
TRIES = Retries(first_wait=0.01, longest_wait=0.01)
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


def cut(events: int, **more: Any) -> Answer:
    """The answer, reset after so many of its pieces."""
    return Answer(chunks=PIECES, cut=Cut(after_events=ROLE + events, how="reset"), **more)


REST = Answer(chunks=PIECES, prefix="continue")
WHOLE = Answer(chunks=PIECES)


class Scene:
    """A gateway before two upstreams, of which the first begins the answer."""

    def __init__(self, one: FakeUpstream, two: FakeUpstream, running: Running) -> None:
        self.one = one
        self.two = two
        self.running = running

    async def ask(self, **members: Any) -> Streamed:
        answered = await self.running.chat(stream=True, **members)
        return Streamed(answered, (await self.running.recorder.wait(1))[-1])


class Streamed:
    """A stream as the client got it, and its record."""

    def __init__(self, answered: Answered, record: Record) -> None:
        assert answered.status == 200, answered.body
        self.record = record
        self.headers = answered.headers
        events = answered.body.split(b"\n\n")
        assert events.pop() == b""
        self.done = events[-1] == b"data: [DONE]"
        self.chunks = [json.loads(one.removeprefix(b"data: ")) for one in events[: -1 if self.done else None]]
        self.error: Any = None if self.done else self.chunks.pop()["error"]

    @property
    def deltas(self) -> list[Any]:
        return [choice["delta"] for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def text(self) -> str:
        return "".join(delta.get("content") or "" for delta in self.deltas)

    def is_one_answer(self, finish: str = "stop") -> None:
        """It is one stream from one server, whole."""
        assert self.done
        assert self.error is None
        assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in self.chunks}) == 1
        assert [delta.get("role") for delta in self.deltas] == ["assistant"] + [None] * (len(self.deltas) - 1)
        found = [choice["finish_reason"] for chunk in self.chunks for choice in chunk["choices"]]
        assert found == [None] * (len(found) - 1) + [finish]


@asynccontextmanager
async def before(
    first: Scripted,
    second: Scripted,
    rescue: Literal["off", "continue", "splice"] = "continue",
    continues: Continuing | None = "message",
    retries: Retries = TRIES,
    breaker: Breaker = LENIENT,
) -> AsyncIterator[Scene]:
    targets = (TargetConfig("first", "a"), TargetConfig("second", "b", continues=continues))
    models = {"gpt-5.4": Model(targets, rescue=rescue)}
    async with FakeUpstream(first) as one, FakeUpstream(second) as two:
        providers = (upstream(one.base_url, "first"), upstream(two.base_url, "second"))
        async with gateway(*providers, models=models, retries=retries, breaker=breaker) as running:
            idle = Idle(running)
            yield Scene(one, two, running)
            await idle.again(one, two)


def asked(first: Scripted, second: Scripted, scene: dict[str, Any] | None = None, **members: Any) -> Streamed:
    """The answer to one streamed request."""
    found: list[Streamed] = []

    async def main() -> None:
        async with before(first, second, **scene or {}) as running:
            found.append(await running.ask(**members))

    run(main())
    return found[0]


def outcomes(record: Record) -> list[tuple[str, str]]:
    return [(attempt.provider, attempt.outcome) for attempt in record.attempts]


def in_scene(
    test: Callable[[Scene], Coroutine[Any, Any, None]], first: Scripted, second: Scripted, **settings: Any
) -> None:
    async def main() -> None:
        async with before(first, second, **settings) as scene:
            await test(scene)

    run(main())


# -- continue


def test_without_a_rescue_a_broken_answer_ends_in_an_error() -> None:
    streamed = asked(cut(2), REST, {"rescue": "off", "continues": None})
    assert streamed.error["code"] == "upstream_failed"
    assert streamed.text == "".join(PIECES[:2])
    assert (streamed.record.ended, streamed.record.rescue, outcomes(streamed.record)) == (
        "cut",
        "",
        [("first", "reset")],
    )
    assert streamed.record.attempts[0].usage is None


def test_another_target_continues_a_broken_answer() -> None:
    async def main(scene: Scene) -> None:
        streamed = await scene.ask(temperature=0.5)
        streamed.is_one_answer()
        assert streamed.text == TEXT
        assert streamed.headers["x-penstock-target"] == "first/a"
        record = streamed.record
        assert (record.ended, record.status, record.rescue) == ("ok", 200, "continued")
        assert (record.provider, record.model) == ("first", "a")
        assert outcomes(record) == [("first", "reset"), ("second", "ok")]
        sent = scene.two.seen[0].json()
        question = {"role": "user", "content": "Say hello."}
        assert sent["messages"] == [question, {"role": "assistant", "content": "".join(PIECES[:2])}]
        assert (sent["model"], sent["temperature"], sent["stream"]) == ("b", 0.5, True)
        assert scene.running.series()["penstock_rescues_total", "gpt-5.4", "continued"] == 1

    in_scene(main, cut(2), REST)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_openai_python_sees_one_message(how: Literal["close", "reset"]) -> None:
    async def main(scene: Scene) -> None:
        host, port = scene.running.address
        async with openai.AsyncOpenAI(base_url=f"http://{host}:{port}/v1", api_key=KEY, max_retries=0) as client:
            asking: Any = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "What is it?"}], **USAGE}
            async with client.chat.completions.stream(**asking) as stream:
                deltas = [event.delta async for event in stream if event.type == "content.delta"]
            final = await stream.get_final_completion()
        assert "".join(deltas) == TEXT
        assert final.choices[0].message.content == TEXT
        assert final.choices[0].finish_reason == "stop"
        assert final.usage is not None
        assert final.usage.total_tokens == final.usage.prompt_tokens + final.usage.completion_tokens

    in_scene(main, Answer(chunks=PIECES, cut=Cut(after_events=3, how=how)), REST)


def test_the_usage_of_both_answers_is_on_record_and_told() -> None:
    second = msgspec.structs.replace(REST, usage=Tokens(prompt=20, completion=5, cached=4))
    streamed = asked(cut(2), second, **USAGE)
    streamed.is_one_answer()
    first, other = streamed.record.attempts
    assert first.usage is not None
    assert (first.usage.source, other.usage.source if other.usage else None) == ("partial", "reported")
    assert first.usage.completion_tokens == -(-len("".join(PIECES[:2]).encode()) // 4)
    total = streamed.record.usage
    assert total is not None
    assert total.source == "estimated"
    assert total.prompt_tokens == first.usage.prompt_tokens + 20
    assert total.completion_tokens == first.usage.completion_tokens + 5
    assert total.cached_tokens == 4
    assert [chunk["usage"] for chunk in streamed.chunks[:-1]] == [None] * (len(streamed.chunks) - 1)
    last = streamed.chunks[-1]
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == total.prompt_tokens
    assert last["usage"]["completion_tokens"] == total.completion_tokens
    assert last["usage"]["total_tokens"] == total.prompt_tokens + total.completion_tokens


def test_usage_that_neither_reports_is_estimated() -> None:
    streamed = asked(cut(2), msgspec.structs.replace(REST, report_usage="never"), **USAGE)
    streamed.is_one_answer()
    assert [attempt.usage.source for attempt in streamed.record.attempts if attempt.usage] == ["partial", "estimated"]
    assert streamed.chunks[-1]["usage"]["completion_tokens"] > len(TEXT) // 5


def test_no_usage_is_told_to_a_client_that_did_not_ask() -> None:
    streamed = asked(cut(2), REST)
    assert all(chunk["choices"] and chunk.get("usage") is None for chunk in streamed.chunks)
    assert streamed.record.usage is not None


@pytest.mark.parametrize("name", ["max_completion_tokens", "max_tokens"])
def test_the_token_limit_is_reduced_by_what_was_generated(name: str) -> None:
    async def main(scene: Scene) -> None:
        (await scene.ask(**{name: 100})).is_one_answer()
        used = -(-len("".join(PIECES[:3]).encode()) // 4)
        assert scene.two.seen[0].json()[name] == 100 - used

    in_scene(main, cut(3), REST)


def test_a_spent_token_limit_leaves_nothing_to_continue() -> None:
    streamed = asked(cut(3), REST, max_completion_tokens=5)
    assert streamed.error["code"] == "upstream_failed"
    assert streamed.record.rescue == "unfit: the token limit is spent"


@pytest.mark.parametrize(
    ("continues", "message", "beside"),
    [
        ("message", {}, {}),
        ("prefix", {"prefix": True}, {}),
        ("continue_final_message", {}, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
def test_each_kind_of_target_is_told_in_its_way(continues: Continuing, message: Any, beside: Any) -> None:
    async def main(scene: Scene) -> None:
        streamed = await scene.ask()
        streamed.is_one_answer()
        assert streamed.text == TEXT
        sent = scene.two.seen[0].json()
        assert sent["messages"][-1] == {"role": "assistant", "content": "".join(PIECES[:2]), **message}
        assert {name: sent[name] for name in beside} == beside

    in_scene(main, cut(2), REST, continues=continues)


def test_a_prefix_that_is_echoed_is_not_told_twice() -> None:
    streamed = asked(cut(2), WHOLE, {"continues": "echoed_prefix"})
    streamed.is_one_answer()
    assert streamed.text == TEXT


def test_a_prefix_that_should_be_echoed_and_is_not_ends_in_the_first_error() -> None:
    streamed = asked(cut(2), REST, {"continues": "echoed_prefix"})
    assert streamed.text == "".join(PIECES[:2])
    assert "'first'" in streamed.error["message"]


def test_a_refused_prefix_is_never_told() -> None:
    streamed = asked(cut(2), Answer(prefix="refuse"))
    assert streamed.text == "".join(PIECES[:2])
    assert streamed.error == {
        "message": "The provider 'first' broke the connection in the middle of its answer.",
        "type": "server_error",
        "param": None,
        "code": "upstream_failed",
    }
    record = streamed.record
    assert (record.ended, record.rescue, record.stopped, record.provider) == ("cut", "failed", "final", "first")
    assert outcomes(record) == [("first", "reset"), ("second", "invalid")]
    assert record.usage is not None


def test_a_target_that_begins_to_think_does_not_continue() -> None:
    streamed = asked(cut(2), Answer(chunks=(Chunk(reasoning="Hm."), "Something else."), prefix="continue"))
    assert streamed.text == "".join(PIECES[:2])
    assert "'first'" in streamed.error["message"]
    assert outcomes(streamed.record) == [("first", "reset"), ("second", "differs")]


def test_what_breaks_off_again_is_continued_again() -> None:
    again = (Answer(chunks=PIECES, prefix="continue", cut=Cut(after_events=ROLE + 1, how="reset")), REST)
    streamed = asked(cut(2), again)
    streamed.is_one_answer()
    assert streamed.text == TEXT
    assert outcomes(streamed.record) == [("first", "reset"), ("second", "reset"), ("second", "ok")]
    assert all(attempt.usage is not None for attempt in streamed.record.attempts)


def test_when_the_second_target_dies_too_the_first_error_is_told() -> None:
    dies = (Answer(chunks=PIECES, prefix="continue", cut=Cut(after_events=ROLE + 1, how="reset")), Answer(status=503))
    streamed = asked(cut(2), dies)
    assert streamed.text == "".join(PIECES[:3])
    assert "'first'" in streamed.error["message"]
    assert (streamed.record.rescue, streamed.record.stopped) == ("failed", "attempts")
    assert [outcome for _, outcome in outcomes(streamed.record)] == ["reset", "reset", "unavailable", "unavailable"]


def test_attempts_before_the_first_event_count() -> None:
    twice = Retries(attempts=2, first_wait=0.01)
    models = (Answer(status=503), REST)
    streamed = asked(cut(2), models, {"retries": twice})
    assert streamed.record.rescue == "failed"
    assert outcomes(streamed.record) == [("first", "reset"), ("second", "unavailable")]
    assert asked(cut(2), REST, {"retries": Retries(attempts=1)}).record.stopped == "attempts"


def test_a_target_whose_breaker_is_open_is_not_asked() -> None:
    async def main(scene: Scene) -> None:
        await scene.running.chat(stream=True)
        assert scene.running.api.gateway.upstreams.lanes.unwell == {"second/b"}
        answered = await scene.running.chat(stream=True)
        streamed = Streamed(answered, await scene.running.record(1))
        assert streamed.error is not None
        assert (streamed.record.rescue, streamed.record.stopped) == ("failed", "targets")
        assert [skipped.provider for skipped in streamed.record.skipped] == ["second"]
        assert scene.two.requests_seen == 3

    in_scene(main, cut(2), Answer(status=503), breaker=Breaker(failures=3, probe_interval=3600.0))


CALL = Answer(tool_calls=(ToolCall(name="look", arguments='{"at": "the gate of the turbine"}'),), finish_reason="stop")
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]}


@pytest.mark.parametrize(
    ("first", "members", "why"),
    [
        (
            Answer(chunks=("Let me look.",), tool_calls=CALL.tool_calls, cut=Cut(after_events=4, how="reset")),
            TOOLS,
            "a tool call was begun",
        ),
        (
            Answer(chunks=(Chunk(reasoning="Hm."), *PIECES), cut=Cut(after_events=3, how="reset")),
            {},
            "it reasoned",
        ),
        (cut(2), {"response_format": {"type": "json_object"}}, "a format was asked for"),
        (cut(2), {"logprobs": True}, "log probabilities were asked for"),
        (cut(2), {"stop": ["the gated pipe \n"]}, "a stop string may have begun"),
        (cut(4), {"n": 2}, "there are several choices"),
        (
            cut(2),
            {"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It"}]},
            "the request has a prefix of its own",
        ),
    ],
)
def test_what_cannot_be_joined_without_a_trace_ends_in_the_error(first: Answer, members: Any, why: str) -> None:
    async def main(scene: Scene) -> None:
        streamed = await scene.ask(**members)
        assert streamed.error is not None
        assert (streamed.record.ended, streamed.record.rescue) == ("cut", f"unfit: {why}")
        assert not scene.two.seen

    in_scene(main, first, REST)


def test_text_may_go_over_into_a_tool_call() -> None:
    second = Answer(chunks=PIECES, tool_calls=CALL.tool_calls, prefix="continue")
    streamed = asked(cut(2), second, **TOOLS)
    streamed.is_one_answer("tool_calls")
    assert streamed.text == TEXT
    calls = [call for delta in streamed.deltas for call in delta.get("tool_calls", [])]
    assert "".join(call["function"].get("arguments", "") for call in calls) == '{"at": "the gate of the turbine"}'


def test_a_stop_string_that_has_not_begun_does_no_harm() -> None:
    streamed = asked(cut(2), REST, stop=["waterfall"])
    streamed.is_one_answer()


def test_an_answer_that_ends_without_a_finish_reason_is_continued() -> None:
    streamed = asked(Answer(chunks=PIECES[:2], finish_reason=""), REST)
    streamed.is_one_answer()
    assert streamed.text == TEXT
    assert outcomes(streamed.record)[0] == ("first", "incomplete")


def test_an_answer_that_ends_in_an_error_of_its_provider_is_continued() -> None:
    fails = Answer(chunks=(*PIECES[:2], Chunk(data='{"error": {"message": "lost", "type": "server_error"}}')))
    streamed = asked(fails, REST)
    streamed.is_one_answer()
    assert streamed.text == TEXT


def test_the_callers_patience_counts_from_the_last_bytes_it_got() -> None:
    slow = tuple(Chunk(text=piece, wait=0.3) for piece in PIECES)  # longer in all than the caller waits for any of it
    broken = Answer(chunks=slow, cut=Cut(after_events=ROLE + 4, how="reset"))

    async def main(scene: Scene) -> None:
        body = json.dumps({"model": "gpt-5.4", "stream": True, "messages": [{"role": "user", "content": "Go."}]})
        fields = {"x_stainless_read_timeout": "1.0"}
        asking = request("POST", "/v1/chat/completions", body=body.encode(), **fields)
        streamed = Streamed(await scene.running.ask(asking), await scene.running.record())
        streamed.is_one_answer()
        assert streamed.text == TEXT

    in_scene(main, broken, REST)


# -- splice


def test_a_repeated_answer_goes_on_where_the_first_broke_off() -> None:
    async def main(scene: Scene) -> None:
        streamed = await scene.ask(**USAGE)
        streamed.is_one_answer()
        assert streamed.text == TEXT
        assert (streamed.record.rescue, streamed.record.provider) == ("spliced", "first")
        assert scene.two.seen[0].json()["messages"] == [{"role": "user", "content": "Say hello."}]

    in_scene(main, cut(2), Answer(content=TEXT), rescue="splice", continues=None)


def test_the_same_target_may_repeat_it() -> None:
    streamed = asked((cut(2), WHOLE), Answer(status=503), {"rescue": "splice", "continues": None})
    streamed.is_one_answer()
    assert streamed.text == TEXT
    assert outcomes(streamed.record) == [("first", "reset"), ("second", "unavailable"), ("first", "ok")]


@pytest.mark.parametrize(
    "other",
    [
        Answer(content="A penstock is something else altogether."),
        Answer(content="A pen"),
        Answer(chunks=(Chunk(reasoning="Hm."), *PIECES)),
        Answer(chunks=("A penstock is ", Chunk(reasoning="Hm."), *PIECES[1:])),
        Answer(chunks=PIECES[:1], tool_calls=CALL.tool_calls),
    ],
)
def test_a_repeated_answer_that_differs_ends_in_the_first_error(other: Answer) -> None:
    streamed = asked(cut(2), other, {"rescue": "splice", "continues": None})
    assert streamed.text == "".join(PIECES[:2])
    assert "'first'" in streamed.error["message"]
    record = streamed.record
    assert (record.rescue, record.stopped) == ("failed", "final")
    assert outcomes(record) == [("first", "reset"), ("second", "differs")]


def test_reasoning_is_compared_as_well() -> None:
    thinks = (Chunk(reasoning="Let me "), Chunk(reasoning="think."), *PIECES)
    broken = Answer(chunks=thinks, cut=Cut(after_events=ROLE + 3, how="reset"))
    again = Answer(chunks=(Chunk(reasoning="Let me think."), *PIECES))
    streamed = asked(broken, again, {"rescue": "splice", "continues": None})
    streamed.is_one_answer()
    assert streamed.text == TEXT
    assert "".join(delta.get("reasoning_content", "") for delta in streamed.deltas) == "Let me think."


# -- hanging up


@pytest.mark.parametrize("second", [Answer(wait="forever"), Answer(chunks=("more ", Chunk(text="x", wait="forever")))])
def test_a_client_that_hangs_up_during_a_rescue_frees_the_second_upstream(second: Answer) -> None:
    async def main(scene: Scene) -> None:
        async with scene.running.client() as client:
            await client.send(chat(stream=True))
            await client.read_until(b"the gated pipe")
            await scene.two.reached("forever")
        seen = await scene.two.ended()
        assert seen.hung_up
        record = await scene.running.record()
        assert record.ended == "hangup"
        assert outcomes(record) == [("first", "reset"), ("second", "cancelled")]
        assert record.usage is not None

    in_scene(main, cut(2), second)


def test_an_answer_that_goes_on_may_be_read_on_for_its_bill() -> None:
    chunks = (*PIECES[:3], Chunk(text=PIECES[3], wait="gate"), PIECES[4])
    second = Answer(chunks=chunks, prefix="continue", usage=Tokens(prompt=20, completion=5))

    async def main() -> None:
        targets = (TargetConfig("first", "a"), TargetConfig("second", "b", continues="message"))
        models = {"gpt-5.4": Model(targets, rescue="continue")}
        async with FakeUpstream(cut(2)) as one, FakeUpstream(second) as two:
            providers = (upstream(one.base_url, "first"), upstream(two.base_url, "second", on_hangup="drain"))
            async with gateway(*providers, models=models, retries=TRIES) as running:
                async with running.client() as client:
                    await client.send(chat(stream=True))
                    await client.read_until(PIECES[2].encode())
                    await two.reached("gate")
                await until(lambda: not running.server.edge.connections)
                two.open("gate")
                record = await running.record()
        assert (record.ended, record.provider) == ("hangup", "first")
        assert outcomes(record) == [("first", "reset"), ("second", "ok")]
        broken, read_on = (attempt.usage for attempt in record.attempts)
        assert broken is not None
        assert read_on is not None
        assert (read_on.prompt_tokens, read_on.completion_tokens, read_on.source) == (20, 5, "reported")
        assert record.usage is not None
        assert record.usage.completion_tokens == broken.completion_tokens + 5

    run(main())


def test_a_client_that_hangs_up_while_a_rescue_waits_leaves_nothing() -> None:
    async def main(scene: Scene) -> None:
        async with scene.running.client() as client:
            await client.send(chat(stream=True))
            await client.read_until(b"the gated pipe")
            await scene.two.ended()
        record = await scene.running.record()
        assert record.ended == "hangup"
        assert len(scene.two.seen) == 1

    hours = Retries(first_wait=3600.0, longest_wait=3600.0, max_wait=7200.0, patience=7200.0)
    in_scene(main, cut(2), Answer(status=503), retries=hours)


def test_a_slow_reader_pauses_the_answer_that_goes_on() -> None:
    flood = Answer(chunks=tuple("x" * 50_000 for _ in range(400)), prefix="continue", report_usage="never")
    most = 400 * 50_000

    async def main(scene: Scene) -> None:
        async with scene.running.client() as client:
            await client.send(chat(stream=True))
            await client.read_until(b"xx")
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            seen = await scene.two.request()
            pool = scene.running.pools["second"]
            await until(lambda: any(connection._paused for connection in pool.connections))
            assert seen.sent_bytes < most

    in_scene(main, Answer(chunks=flood.chunks, cut=Cut(after_events=20, how="reset")), flood)


# -- every cut


def everywhere(rescue: Literal["continue", "splice"], second: Answer) -> None:
    """The first stream is cut after so many of its bytes, in each kind of place: the client always gets all of it.

    (`wire.test_seam` breaks texts off after every character, without sockets.)
    """

    async def main() -> None:
        async with before(Answer(chunks=PIECES), second, rescue="off", continues=None) as scene:
            whole = await scene.running.chat(stream=True)
        cuts = [
            Answer(chunks=PIECES, cut=Cut(after_bytes=size, how="reset"), id="chatcmpl-1")
            for size in range(0, len(whole.body) + 1, 7)
        ]
        continues: Continuing | None = "message" if rescue == "continue" else None
        async with before(cuts, second, rescue=rescue, continues=continues) as scene:
            rescued = set()
            for number in range(len(cuts)):
                answered = await scene.running.chat(stream=True)
                streamed = Streamed(answered, await scene.running.record(number))
                streamed.is_one_answer()
                assert streamed.text == TEXT
                rescued.add(streamed.record.rescue)
            assert rescued == {"", "continued" if rescue == "continue" else "spliced"}

    run(main())


def test_an_answer_cut_anywhere_is_continued_to_the_same_text() -> None:
    everywhere("continue", REST)


def test_an_answer_cut_anywhere_is_spliced_to_the_same_text() -> None:
    everywhere("splice", WHOLE)
