"""The fake upstream over real sockets: right by default, and broken exactly as its script says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.fake_upstream import Answer, Chunk, Cut, FakeUpstream, Fault, Script, Tokens
from penstock.fake_upstream.server import Scripted
from penstock.fake_upstream.shapes import SENTENCE
from support.certificates import make_certificate
from support.raw import Raw, chat_request, http_request, raw_client

Conversation = Callable[[FakeUpstream, Raw], Awaitable[None]]


def converse(script: Scripted | None, conversation: Conversation, **settings: Any) -> None:
    """Run one conversation with a fake upstream over one connection."""

    async def run() -> None:
        async with FakeUpstream(script, **settings) as upstream:
            async with raw_client(("127.0.0.1", upstream.port)) as client:
                await conversation(upstream, client)
            await upstream.wait_for(lambda: not upstream.open_connections)

    asyncio.run(run())


async def read_answer(client: Raw) -> tuple[int, dict[str, str], bytes]:
    """Read one answer by its own framing: content-length, chunked, or until the end."""
    lines = (await client.read_until(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    status = int(lines[0].split()[1])
    if "content-length" in headers:
        return status, headers, await client.reader.readexactly(int(headers["content-length"]))
    if "transfer-encoding" not in headers:
        return status, headers, await client.read_all()
    body = b""
    while size := int(await client.read_until(b"\r\n"), 16):
        body += (await client.reader.readexactly(size + 2))[:-2]
    assert await client.reader.readexactly(2) == b"\r\n"
    return status, headers, body


def events_of(body: bytes) -> list[Any]:
    """The events' data, decoded but for [DONE]."""
    assert body.endswith(b"\n\n")
    datas = [event.removeprefix("data: ") for event in body.decode().split("\n\n")[:-1]]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def test_without_a_script_any_model_gets_a_whole_completion() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(model="anything"))
        status, headers, body = await read_answer(client)
        data = json.loads(body)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert headers["x-request-id"].startswith("req_")
        assert data["object"] == "chat.completion"
        assert data["model"] == "anything"
        assert isinstance(data["created"], int)
        message: dict[str, Any] = {"role": "assistant", "content": SENTENCE, "refusal": None, "annotations": []}
        assert data["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
        words = len(SENTENCE.split())
        usage = data["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, words, words + 2)

    converse(None, conversation)


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_has_openais_chunks_and_a_usage_chunk_only_if_asked(include_usage: bool) -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(stream=True, stream_options={"include_usage": include_usage}))
        _, headers, body = await read_answer(client)
        assert headers["content-type"].startswith("text/event-stream")
        *chunks, done = events_of(body)
        assert done == "[DONE]"
        assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
        if include_usage:
            usage = chunks.pop()
            assert usage["choices"] == []
            assert usage["usage"]["total_tokens"] == 2 + len(SENTENCE.split())
        assert all(("usage" in chunk) == include_usage for chunk in chunks)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
        assert "".join(delta["content"] for delta in deltas[1:-1]) == SENTENCE
        assert deltas[-1] == {}
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]

    converse(None, conversation)


def test_n_choices_come_with_their_own_indexes() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(n=2))
        _, _, body = await read_answer(client)
        assert [choice["index"] for choice in json.loads(body)["choices"]] == [0, 1]
        await client.send(chat_request(n=2, stream=True))
        _, _, stream = await read_answer(client)
        indexes = [chunk["choices"][0]["index"] for chunk in events_of(stream)[:-1]]
        assert indexes == [0, 1] * (len(indexes) // 2)

    converse(None, conversation)


def test_a_token_limit_cuts_the_plain_answer_but_not_a_scripted_one() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(model="plain", max_completion_tokens=3))
        choice = json.loads((await read_answer(client))[2])["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("This is the ", "length")
        await client.send(chat_request(model="scripted", max_completion_tokens=3))
        choice = json.loads((await read_answer(client))[2])["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("One two three four.", "stop")

    converse({"plain": [Answer()], "scripted": [Answer(content="One two three four.")]}, conversation)


def test_answers_are_used_in_turn_and_the_last_repeats() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        statuses = []
        for _ in range(4):
            await client.send(chat_request())
            status, headers, body = await read_answer(client)
            statuses.append(status)
            if status == 429:
                assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1500")
                assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"
        assert statuses == [429, 503, 200, 200]
        assert [seen.status for seen in upstream.seen] == statuses
        assert upstream.connections_made == 1

    converse([Answer(status=429, retry_after=1.5), Answer(status=503), Answer()], conversation)


def test_a_model_that_a_script_does_not_name_is_not_found() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(model="other"))
        status, _, body = await read_answer(client)
        assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
        await client.send(http_request("GET", "/v1/models"))
        assert [model["id"] for model in json.loads((await read_answer(client))[2])["data"]] == ["known"]
        await client.send(http_request("GET", "/v1/models/known"))
        assert json.loads((await read_answer(client))[2])["id"] == "known"

    converse({"known": [Answer()]}, conversation)


def test_a_scripted_path_answers_any_method() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(http_request("PUT", "/anything?x=1", b"\x00\xff", x_custom="y"))
        status, headers, body = await read_answer(client)
        assert (status, body, headers["content-type"]) == (201, b"\xff\x00", "image/png")
        seen = await upstream.ended()
        assert (seen.method, seen.target, seen.path, seen.body) == ("PUT", "/anything?x=1", "/anything", b"\x00\xff")
        assert seen.header("x-custom") == "y"

    answer = Answer(status=201, body_bytes=b"\xff\x00", headers={"Content-Type": "image/png"})
    converse(Script(paths={"/anything": (answer,)}), conversation)


def test_unknown_routes_methods_and_bodies_get_openais_error_form() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        for request, expected in (
            (http_request("GET", "/v1/nope"), 404),
            (http_request("GET", "/v1/chat/completions"), 405),
            (http_request("POST", "/v1/chat/completions", b"{"), 400),
            (http_request("POST", "/v1/chat/completions", b"[" * 100_000), 400),
            (http_request("POST", "/v1/chat/completions", b'"\xff"'), 400),
        ):
            await client.send(request)
            status, _, body = await read_answer(client)
            assert status == expected
            assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}

    converse(None, conversation)


def test_a_key_is_asked_for_where_keys_are_given() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        for key, expected in (("sk-right", 200), ("sk-wrong-0123456789", 401)):
            await client.send(chat_request(key=key))
            status, _, body = await read_answer(client)
            assert status == expected
        error = json.loads(body)["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert "sk-wrong" not in error["message"]

    converse(None, conversation, keys=["sk-right"])


@pytest.mark.parametrize(
    ("model", "expected"), [("fake-status-429-after-7", 429), ("fake-chunks-20", 200), ("fake-bogus-1", 400)]
)
def test_a_models_name_can_say_what_to_answer(model: str, expected: int) -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(model=model, stream=True))
        status, headers, body = await read_answer(client)
        assert status == expected
        if status == 429:
            assert headers["retry-after"] == "7"
        elif status == 200:
            assert len(events_of(body)) == 20 + 3
        else:
            assert "unknown word 'bogus': the words are status, after," in json.loads(body)["error"]["message"]

    converse(None, conversation)


def test_a_header_can_say_what_to_answer() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        body = b'{"model":"gpt-5.4","messages":[]}'
        await client.send(http_request("POST", "/v1/chat/completions", body, x_fake_upstream="fake-status-503"))
        assert (await read_answer(client))[0] == 503

    converse(None, conversation)


def test_chunks_carry_what_the_script_says() -> None:
    script = Answer(
        chunks=("a", Chunk(reasoning="hm "), Chunk(data='{"error":{}}'), Chunk(raw=": ping\n\n")),
        role=False,
        done=False,
        finish_reason="",
        usage=Tokens(prompt=5, completion=6, cached=4),
        report_usage="always",
        final_blank_line=False,
    )

    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(stream=True))
        _, _, body = await read_answer(client)
        assert body.endswith(b"}\n")
        events = body.decode().split("\n\n")
        assert json.loads(events[0].removeprefix("data: "))["choices"][0]["delta"] == {"content": "a"}
        assert json.loads(events[1].removeprefix("data: "))["choices"][0]["delta"] == {"reasoning_content": "hm "}
        assert events[2:4] == ['data: {"error":{}}', ": ping"]
        usage = json.loads(events[4].removeprefix("data: "))["usage"]
        assert (usage["total_tokens"], usage["prompt_tokens_details"]["cached_tokens"]) == (11, 4)

    converse(script, conversation)


def test_an_error_of_the_scripts_own_replaces_openais() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request())
        status, _, body = await read_answer(client)
        assert status == 400
        assert json.loads(body) == {"error": {"message": "No.", "type": "t", "param": "p", "code": "c"}}

    converse(Answer(status=400, error=Fault("No.", type="t", param="p", code="c")), conversation)


def test_a_gate_holds_the_answer_where_it_stands_until_it_is_opened() -> None:
    script = Answer(wait="head", wait_first="first", chunks=("a", Chunk(text="b", wait="second")))

    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(stream=True))
        await upstream.reached("head")
        assert (await upstream.request()).status == 200
        upstream.open("head")
        assert b"200 OK" in await client.read_until(b"\r\n\r\n")
        await upstream.reached("first")
        upstream.open("first")
        assert b'"content":"a"' in await client.read_until(b'"a"')
        await upstream.reached("second")
        assert not upstream.seen[0].ended
        upstream.open("second")
        await client.read_until(b"0\r\n\r\n")
        assert (await upstream.ended()).ended == "complete"

    converse(script, conversation)


def test_waits_in_seconds_pass() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        started = time.monotonic()
        await client.send(chat_request(stream=True))
        await read_answer(client)
        assert time.monotonic() - started >= 0.05

    converse(Answer(wait=0.01, wait_first=0.02, between=0.01, chunks=("a", "b", "c")), conversation)


def test_a_hang_up_is_seen_while_the_answer_waits() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request())
        await upstream.reached("forever")
        before = time.monotonic()
        await client.close()
        seen = await upstream.ended()
        assert seen.hung_up
        assert seen.ended_at is not None
        assert 0 <= seen.ended_at - before < 0.25

    converse(Answer(wait="forever"), conversation)


def test_a_half_closed_connection_counts_as_hung_up() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request())
        await upstream.reached("forever")
        client.writer.write_eof()
        assert (await upstream.ended()).hung_up

    converse(Answer(wait="forever"), conversation)


def test_a_request_whose_client_did_not_stay_is_seen_all_the_same() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        client.writer.write(chat_request(model="a") + chat_request(model="b"))
        client.writer.write_eof()
        await upstream.wait_for(lambda: len(upstream.seen) == 2 and not upstream.open_connections)
        assert [(seen.model, seen.ended) for seen in upstream.seen] == [("a", "hangup"), ("b", "hangup")]

    converse(Answer(wait="forever"), conversation)


def test_a_hang_up_is_seen_in_a_stream_that_never_waits() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(stream=True))
        await client.read_until(b'"word3 "')
        client.writer.transport.abort()
        seen = await upstream.ended()
        assert seen.hung_up
        assert seen.sent_bytes < 20_000_000

    converse(Answer(chunks=tuple(f"word{number} " for number in range(100_000))), conversation)


def test_stopping_ends_what_is_being_answered() -> None:
    async def run() -> None:
        async with FakeUpstream(Answer(wait="forever")) as upstream:
            reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
            writer.write(chat_request())
            seen = await upstream.request()
        assert await reader.read() == b""
        writer.close()
        assert seen.ended == "stopped"
        assert upstream.open_connections == 0

    asyncio.run(run())


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_stream_can_be_cut_after_events(how: Any) -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(stream=True))
        await client.read_until(b'"content":"a"')
        await upstream.reached("cut")
        upstream.open("cut")
        if how == "reset":
            with pytest.raises(ConnectionResetError):
                await client.read_all()
        else:
            rest = await client.read_all()
            assert b'"b"' not in rest
            assert not rest.endswith(b"0\r\n\r\n")
        assert (await upstream.ended()).ended == "cut"

    converse(Answer(chunks=("a", "b"), cut=Cut(after_events=2, how=how, wait="cut")), conversation)


def test_a_body_can_be_cut_short_of_its_content_length() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request())
        head = await client.read_until(b"\r\n\r\n")
        assert b"content-length: 11\r\n" in head
        assert await client.read_all() == b"hello"
        assert upstream.seen[0].sent_bytes == 5

    converse(Answer(body="hello world", cut=Cut(after_bytes=5)), conversation)


def test_a_stall_sends_nothing_more_until_the_client_goes() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(stream=True))
        await client.read_until(b'"content":"a"')
        await upstream.reached("forever")
        await client.close()
        assert (await upstream.ended()).hung_up

    converse(Answer(chunks=("a", "b"), cut=Cut(after_events=2, how="stall")), conversation)


def test_raw_bytes_are_sent_as_they_are() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request())
        assert await client.read_all() == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabc\xff"

    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabc\xff"
    converse(Answer(raw_bytes=raw, end="drop"), conversation)


def test_an_answer_without_a_byte_can_end_in_a_reset() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request())
        with pytest.raises(ConnectionResetError):
            await client.read_all()

    converse(Answer(raw="", end="reset"), conversation)


@pytest.mark.parametrize(
    ("answer", "version", "framing"),
    [
        (Answer(framing="close"), b"HTTP/1.1", None),
        (Answer(http="1.0"), b"HTTP/1.0", None),
        (Answer(framing="length"), b"HTTP/1.1", b"content-length"),
        (Answer(framing="chunked"), b"HTTP/1.1", b"transfer-encoding"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_every_framing_carries_every_body(answer: Answer, version: bytes, framing: bytes | None, stream: bool) -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(stream=stream))
        data = await client.read_until(b"\r\n\r\n")
        assert data.startswith(version)
        if framing is None:
            assert b"connection: close" in data
            body = await client.read_all()
            assert body.endswith(b"[DONE]\n\n" if stream else b"}")
        else:
            assert framing in data

    converse(answer, conversation)


def test_http_chunks_are_of_the_given_sizes() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request())
        await client.read_until(b"\r\n\r\n")
        assert await client.read_until(b"0\r\n\r\n") == b"1\r\na\r\n3\r\nbcd\r\n3\r\nefg\r\n1\r\nh\r\n0\r\n\r\n"

    converse(Answer(body="abcdefgh", framing="chunked", chunk_sizes=(1, 3)), conversation)


@pytest.mark.parametrize("write", ["whole", (1,), (7, 3)])
def test_an_answer_reads_the_same_however_it_is_written(write: Any) -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(stream=True))
        _, _, body = await read_answer(client)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events_of(body)[:-1]) == "é🌍漢"
        await client.send(chat_request())
        assert json.loads((await read_answer(client))[2])["choices"][0]["message"]["content"] == "é🌍漢"

    converse(Answer(chunks=("é", "🌍", "漢"), write=write, between=0.001), conversation)


def test_a_close_is_announced_and_a_drop_is_not() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(model="drop"))
        assert b"connection: close" not in await client.read_all()
        async with raw_client(("127.0.0.1", upstream.port)) as second:
            await second.send(chat_request(model="close"))
            assert b"connection: close" in await second.read_all()

    converse({"drop": [Answer(end="drop")], "close": [Answer(end="close")]}, conversation)


def test_idle_connections_can_be_closed_and_busy_ones_stay() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(model="idle"))
        await read_answer(client)
        async with raw_client(("127.0.0.1", upstream.port)) as busy:
            await busy.send(chat_request(model="busy"))
            await upstream.reached("gate")
            await upstream.close_idle()
            assert upstream.open_connections == 1
            assert await client.read_all() == b""
            upstream.open("gate")
            assert (await read_answer(busy))[0] == 200

    converse({"idle": [Answer()], "busy": [Answer(wait="gate")]}, conversation)


def test_a_slow_reader_holds_the_answer_up() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        size = 32 * 1024 * 1024
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(chat_request())
        seen = await upstream.request()
        assert seen.sent_bytes == 0
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await read_answer(client))[2]) == size
        assert seen.sent_bytes == size

    converse(Answer(body="x" * 32 * 1024 * 1024), conversation)


def test_requests_of_one_connection_are_answered_in_order() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request(model="a") + chat_request(model="b") + chat_request(model="c"))
        models = [json.loads((await read_answer(client))[2])["model"] for _ in range(3)]
        assert models == ["a", "b", "c"]

    converse(None, conversation)


def test_a_client_that_expects_100_is_told_to_go_on() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        head, _, body = chat_request().partition(b"\r\n\r\n")
        await client.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await read_answer(client))[0] == 200

    converse(None, conversation)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x00\xa5 hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000, 431),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (chat_request() * 40, 400),
    ],
)
def test_hostile_input_gets_an_error_and_a_close(data: bytes, status: int) -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(data)
        answer = await client.read_all()
        assert f"HTTP/1.1 {status} ".encode() in answer
        assert b'{"error":' in answer

    converse(Answer(wait="forever"), conversation)


def test_a_body_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.fake_upstream.connection.MAX_BODY", 1000)

    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(http_request("POST", "/v1/chat/completions", b"x" * 1001))
        assert b"HTTP/1.1 413 " in await client.read_all()
        assert upstream.seen == []

    converse(None, conversation)


def test_a_unix_socket_is_listened_on_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "upstream.sock"

    async def run() -> None:
        async with FakeUpstream(listen=f"unix:{path}") as upstream:
            assert upstream.uds == str(path)
            async with raw_client(str(path)) as client:
                await client.send(chat_request())
                assert (await read_answer(client))[0] == 200

    asyncio.run(run())
    assert not path.exists()


def test_tls_is_spoken_with_a_certificate(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    async def run() -> None:
        answers = [Answer(), Answer(chunks=("a", "b"), cut=Cut(after_events=2, how="reset")), Answer(wait="forever")]
        async with FakeUpstream(answers, tls=certificate.server_context()) as upstream:
            assert upstream.url == f"https://127.0.0.1:{upstream.port}"
            async with raw_client(("127.0.0.1", upstream.port), certificate.client_context()) as client:
                await client.send(chat_request())
                assert (await read_answer(client))[0] == 200
                await client.send(chat_request(stream=True))
                with pytest.raises(ConnectionError):
                    await client.read_until(b"0\r\n\r\n")
            async with raw_client(("127.0.0.1", upstream.port), certificate.client_context()) as client:
                await client.send(chat_request())
                await upstream.reached("forever")
            assert (await upstream.ended(2)).hung_up

    asyncio.run(run())


def test_waiting_for_what_never_comes_tells_what_was_seen() -> None:
    async def conversation(upstream: FakeUpstream, client: Raw) -> None:
        await client.send(chat_request())
        await upstream.ended()
        with pytest.raises(TimeoutError, match=r"POST /v1/chat/completions 'gpt-5.4' status 200: complete"):
            await upstream.wait_for(lambda: False, timeout=0.01)

    converse(None, conversation)
