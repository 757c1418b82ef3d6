"""The mending matrix: what upstreams do wrong, which clients are asked, and what each of them must come to know."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from penstock.fake_upstream import Answer, Chunk, Cut, Fault, Tokens, ToolCall
from penstock.fake_upstream.faults import FAULTS

Form = Literal["streamed", "whole"]

OPENAI_PYTHON = ("openai-python create", "openai-python stream()")
OPENAI_NODE = ("openai-node create", "openai-node stream()")
LANGCHAIN = ("LangChain",)
AI_SDK = ("AI SDK openai", "AI SDK compatible")
CLIENTS = (*OPENAI_PYTHON, *OPENAI_NODE, *LANGCHAIN, *AI_SDK)
HELPERS = (OPENAI_PYTHON[1], OPENAI_NODE[1])  # which always stream
SEVERAL = (*OPENAI_PYTHON, *OPENAI_NODE)  # which can ask for several choices in one stream

SENTENCE = "A penstock feeds the turbine: 水は管を流れる, über alle Stufen 🌍."
USAGE = Tokens(prompt=7, completion=11)
TEXT = Answer(content=SENTENCE, usage=USAGE)
CALLS = Answer(
    tool_calls=(ToolCall("lookup", '{"query": "gate"}', "call_a"), ToolCall("lookup", '{"query": "水"}', "call_b")),
    usage=USAGE,
)
EMPTY_CALL = Answer(tool_calls=(ToolCall("lookup", "{}", "call_a"),), usage=USAGE)

HTML = "<html><body>Bad gateway</body></html>"
HTML_TYPE = {"content-type": "text/html"}
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "obfuscated"}
BODY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "unasked",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": SENTENCE, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18},
}


class Row(NamedTuple):
    """One fault in one form. `contract`: the rows that it breaks; `text`: what it is, where it is none by name.

    `ends`: what a client must come to know: the clean answer, `intact`, or a clear `error`.
    """

    name: str
    contract: str
    text: str
    form: Form
    answer: Answer
    ends: Literal["intact", "error"] = "intact"
    n: int = 1
    asks_usage: bool = True

    @property
    def model(self) -> str:
        """The model that answers so."""
        return f"{self.name}-{self.form}"

    @property
    def clean(self) -> str:
        """The model whose answer is the same without the fault."""
        if self.answer.tool_calls:
            base = "clean_call" if len(self.answer.tool_calls) == 1 else "clean_calls"
        else:
            base = "clean"
        plain = "_two" if self.n == 2 else "" if self.asks_usage else "_unasked"
        return f"{base}{plain}-{self.form}"

    @property
    def clients(self) -> tuple[str, ...]:
        """Those that can ask for an answer in this form."""
        asked = CLIENTS if self.n == 1 else SEVERAL
        return asked if self.form == "streamed" else tuple(client for client in asked if client not in HELPERS)

    @property
    def said(self) -> str:
        """What the upstream does, in words."""
        return self.text or FAULTS[self.answer.faults[0]].text

    @property
    def leaves_ids_out(self) -> bool:
        """Whether the upstream gives its tool calls no ids that tell them apart, so that somebody has to make them."""
        return bool({"call_id_missing", "call_id_empty", "call_id_shared", "call_unmarked"} & set(self.answer.faults))

    def case(self) -> dict[str, Any]:
        """What the clients are told of it."""
        tools = bool(self.answer.tool_calls)
        return {"model": self.model, "form": self.form, "tools": tools, "n": self.n, "asksUsage": self.asks_usage}


def faulty(name: str, base: Answer = TEXT) -> Answer:
    """The answer with a fault of that name."""
    return Answer(content=base.content, tool_calls=base.tool_calls, usage=base.usage, faults=(name,))


def obfuscated() -> tuple[Chunk, ...]:
    """The sentence in chunks with padding, as OpenAI sends them."""
    deltas = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in SENTENCE.split(" ", 1)]
    deltas[1]["delta"] = {"content": " " + SENTENCE.split(" ", 1)[1]}
    return tuple(
        Chunk(data=json.dumps({**CHUNK, "id": "chatcmpl-x", "choices": [delta], "obfuscation": "aB3"}))
        for delta in deltas
    )


def event_stream() -> str:
    """A stream that nobody asked for."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": SENTENCE}, "finish_reason": "stop"}
    return f"data: {json.dumps({**CHUNK, 'choices': [choice]})}\n\ndata: [DONE]\n\n"


def texts(name: str, contract: str, *, ends: Literal["intact", "error"] = "intact", **more: Any) -> Row:
    """A named fault of a streamed text."""
    return Row(name, contract, "", "streamed", faulty(name), ends, **more)


def calls(name: str, contract: str, base: Answer = CALLS) -> Row:
    """A named fault of streamed tool calls."""
    return Row(name, contract, "", "streamed", faulty(name, base))


def whole(name: str, contract: str, base: Answer = TEXT, ends: Literal["intact", "error"] = "intact") -> Row:
    """A named fault of a whole answer."""
    return Row(name, contract, "", "whole", faulty(name, base), ends)


def text(content: str = SENTENCE, **fields: Any) -> Answer:
    """The sentence, with other fields of an answer."""
    return Answer(content=content, usage=USAGE, **fields)


BROKEN = Fault("The model broke down.", type="server_error")

CLEAN = (
    Row("clean", "", "nothing", "streamed", TEXT),
    Row("clean", "", "nothing", "whole", TEXT),
    Row("clean_unasked", "", "nothing", "streamed", TEXT, asks_usage=False),
    Row("clean_two", "", "nothing", "streamed", TEXT, n=2),
    Row("clean_calls", "", "nothing", "streamed", CALLS),
    Row("clean_calls", "", "nothing", "whole", CALLS),
    Row("clean_call", "", "nothing", "streamed", EMPTY_CALL),
    Row("clean_call", "", "nothing", "whole", EMPTY_CALL),
)

MATRIX = (
    texts("role_missing", "I06"),
    texts("role_repeated", "I07"),
    texts("role_empty", "I08"),
    texts("finish_missing", "I10, J02", ends="error"),
    texts("finish_empty", "I10"),
    texts("finish_repeated", "I10"),
    texts("finish_with_text", "I10"),
    texts("finish_foreign", "D11"),
    texts("finish_error", "D11, J02", ends="error"),
    texts("delta_null", "I09"),
    texts("delta_missing", "I09"),
    texts("deltas_null", "I09"),
    texts("index_missing", "I15"),
    texts("content_parts", "D07"),
    texts("naming_varies", "I05"),
    texts("naming_missing", "I04"),
    texts("created_float", "D01"),
    texts("choices_missing", "I04"),
    texts("choices_reversed", "I15", n=2),
    texts("usage_without_choices", "I04"),
    texts("usage_early", "I14"),
    texts("usage_beside_finish", "I12"),
    texts("usage_on_every_chunk", "I12, I14"),
    Row("usage_unasked", "I13", "a usage chunk that nobody asked for", "streamed", text(report_usage="always"),
        asks_usage=False),
    calls("call_index_missing", "I17"),
    calls("call_index_from_1", "I17"),
    calls("call_index_shared", "I17"),
    calls("call_unmarked", "I17, G09"),
    calls("call_repeated", "I16"),
    calls("call_function_missing", "I18"),
    calls("call_id_missing", "G09"),
    calls("call_id_empty", "G09"),
    calls("call_id_shared", "G09"),
    calls("call_type_missing", "I16"),
    calls("call_type_empty", "I16"),
    calls("call_arguments_null", "G01"),
    calls("call_arguments_object", "G01"),
    calls("call_arguments_none", "G11", EMPTY_CALL),
    calls("finish_of_text", "I18, G03"),
    texts("calls_empty", "D04"),
    texts("event_ids", "I02"),
    texts("event_names", "I02"),
    texts("event_empty", "I21"),
    texts("event_ping", "I21"),
    texts("after_done", "I03"),
    Row("done_missing", "I03", "no [DONE]", "streamed", text(done=False)),
    Row("blank_line_missing", "I03", "no blank line after the last event, which has the usage", "streamed",
        text(done=False, final_blank_line=False)),
    texts("error_chunk", "J01", ends="error"),
    texts("error_event", "J01", ends="error"),
    texts("error_text", "J01", ends="error"),
    Row("error_with_200", "D15", "status 200 with an error", "streamed", Answer(error=BROKEN), "error"),
    Row("html_502", "J09", "status 502 with HTML", "streamed", Answer(status=502, body=HTML, headers=HTML_TYPE),
        "error"),
    Row("html_200", "A01", "status 200 with HTML", "streamed", Answer(body=HTML, headers=HTML_TYPE), "error"),
    Row("body_for_stream", "I01", "a whole answer where a stream was asked for", "streamed",
        Answer(body=json.dumps(BODY)), "error"),
    Row("dies", "J01, J02", "closes the connection in the midst of the text", "streamed",
        text(cut=Cut(after_events=4)), "error"),
    Row("dies_first", "J03", "closes the connection before the first event", "streamed",
        text(cut=Cut(after_events=0)), "error"),
    texts("crlf", "tolerated"),
    Row("bytes_alone", "tolerated", "a write for every byte", "streamed", text(write=(1,))),
    Row("one_write", "tolerated", "one write for all", "streamed", text(write="whole")),
    Row("wrong_type", "tolerated", "content-type: text/plain", "streamed",
        text(headers={"content-type": "text/plain"})),
    Row("obfuscation", "tolerated", "a member `obfuscation`", "streamed",
        Answer(chunks=obfuscated(), usage=USAGE, id="chatcmpl-x")),
    whole("role_missing", "D03"),
    whole("gaps", "D02, D03"),
    whole("gaps", "D02, D03", CALLS)._replace(name="gaps_of_calls"),
    whole("finish_missing", "D02", ends="error"),
    whole("finish_foreign", "D11"),
    whole("finish_error", "D11", ends="error"),
    whole("finish_of_text", "G03", CALLS),
    whole("content_parts", "D07"),
    whole("naming_missing", "D01"),
    whole("created_float", "D01"),
    whole("call_id_missing", "G09", CALLS),
    whole("call_id_empty", "G09", CALLS),
    whole("call_id_shared", "G09", CALLS),
    whole("call_type_missing", "G01", CALLS),
    whole("call_arguments_object", "G01", CALLS),
    whole("call_arguments_none", "G11", EMPTY_CALL),
    whole("calls_empty", "D04"),
    Row("error_with_200", "D15", "status 200 with an error", "whole", Answer(error=BROKEN), "error"),
    Row("html_502", "J09", "status 502 with HTML", "whole", Answer(status=502, body=HTML, headers=HTML_TYPE), "error"),
    Row("html_200", "A01", "status 200 with HTML", "whole", Answer(body=HTML, headers=HTML_TYPE), "error"),
    Row("stream_for_body", "A01", "a stream where a whole answer was asked for", "whole",
        Answer(body=event_stream(), headers={"content-type": "text/event-stream"}), "error"),
    Row("dies", "J03", "closes the connection in the midst of the body", "whole", text(cut=Cut(after_bytes=40)),
        "error"),
    Row("wrong_type", "A01", "content-type: text/plain", "whole", text(headers={"content-type": "text/plain"})),
)  # fmt: skip

ROWS = {row.model: row for row in (*CLEAN, *MATRIX)}
SCRIPT = {row.model: [row.answer] for row in ROWS.values()}
CASES = [row.case() for row in ROWS.values()]
