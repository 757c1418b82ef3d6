"""What a row can find: the verdicts, and the questions about an answer that most rows ask.

A row that returns has passed; it may return a note. Each function here either returns what it was asked for or raises
the verdict, with what came in the words that the report shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from penstock.check.client import Answer

SHOWN = 220  # characters of what came
SAID = 40  # characters of what a model said where it should not have been asked


class Verdict(Exception):
    """A row's end other than passing; `got` is what came."""

    def __init__(self, got: str) -> None:
        super().__init__(got)
        self.got = got


class Failed(Verdict):
    """The server does not do what the row expects."""


class Unsupported(Verdict):
    """The server refuses cleanly what it does not have."""


class Skipped(Verdict):
    """The row could not be asked here."""


# How servers word that they lack something, their code aside.
_LACKS = re.compile(
    r"support|unavailable|not (?:available|enabled|implemented|allowed|permitted)|unrecognized|unknown|disabled"
    r"|only the default",
    re.IGNORECASE,
)


def show(value: object) -> str:
    """A value on one line, cut to what fits in a report."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    text = plain(text)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def plain(text: str) -> str:
    """A text on one line without anything that a terminal would obey."""
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in " ".join(text.split()))


def summary(answer: Answer) -> str:
    """An answer in short: its status, and what it said."""
    kind = (answer.header("content-type") or "no content-type").split(";")[0]
    body = answer.body.decode("utf-8", "replace")
    error = error_of(answer)
    if error is not None:
        told = [f"{name} {show(error[name])}" for name in ("code", "param") if error.get(name) is not None]
        return ", ".join([f"{answer.status}: {show(error.get('message'))}", *told])
    whole = object_of(answer) or {}
    if answer.status == 200 and isinstance(whole.get("choices"), list):
        return f"served, {_said(whole['choices'])}"
    return f"{answer.status} {kind}: {show(body)}" if body else f"{answer.status} without a body"


def _said(choices: list[Any]) -> str:
    """What a completion says, in short; all of its first choice where that is not as it should be."""
    choice = choices[0] if choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        return show(choice)
    return quote(content)


def quote(text: str) -> str:
    """The beginning of what a model said, in quotes."""
    return json.dumps(text if len(text) <= SAID else text[: SAID - 1] + "…", ensure_ascii=False)


def object_of(answer: Answer) -> dict[str, Any] | None:
    """The body as a JSON object; None when it is none."""
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def error_of(answer: Answer) -> dict[str, Any] | None:
    """The error in the envelope, if the body is one with a message."""
    body = object_of(answer)
    error = None if body is None else body.get("error")
    return error if isinstance(error, dict) and isinstance(error.get("message"), str) else None


def expect(condition: object, got: str) -> None:
    """Fail with `got` unless the condition holds."""
    if not condition:
        raise Failed(got)


def served(answer: Answer, what: str = "") -> dict[str, Any]:
    """The completion of an answer that must be a 200."""
    body = object_of(answer)
    if answer.status != 200 or body is None:
        raise Failed(about(what, summary(answer)))
    if "error" in body and "choices" not in body:
        raise Failed(about(what, f"a 200 that holds an error: {show(body)}"))
    return body


def supported(answer: Answer, what: str = "") -> dict[str, Any]:
    """The same of something that a server may lack: a clean refusal of it is Unsupported."""
    refuse_lack(answer, what)
    return served(answer, what)


def refuse_lack(answer: Answer, what: str = "") -> None:
    """Raise Unsupported when the answer is a clean refusal by a server that lacks what was asked for."""
    if lacking(answer):
        raise Unsupported(about(what, summary(answer)))


def lacking(answer: Answer) -> bool:
    """Whether the answer is a 4xx, or a 501, in the envelope that says that something is not supported."""
    error = error_of(answer)
    if error is None or answer.status not in (400, 404, 415, 422, 501):
        return False
    return bool(_LACKS.search(f"{error.get('code') or ''} {error['message']}"))


def refused(
    answer: Answer,
    statuses: Sequence[int] = (400,),
    *,
    param: str | None = None,
    codes: Sequence[str | None] = (),
    what: str = "",
) -> dict[str, Any]:
    """The error of an answer that must be a refusal in the envelope, with that `param` and one of those codes."""
    error = error_of(answer)
    if answer.status not in statuses or error is None:
        raise Failed(about(what, summary(answer)))
    kind = answer.header("content-type") or "none"
    expect(is_json(kind), about(what, f"{answer.status} with an envelope, but content-type {kind}"))
    if param is not None and spelling(error.get("param")) != spelling(param):
        raise Failed(about(what, f"{answer.status} with param {show(error.get('param'))}: {show(error['message'])}"))
    if codes and error.get("code") not in codes:
        raise Failed(about(what, f"{answer.status} with code {show(error.get('code'))}: {show(error['message'])}"))
    return error


def is_json(content_type: str) -> bool:
    """Whether a client takes a body of this type for JSON."""
    kind = content_type.split(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def spelling(param: object) -> object:
    """A param without the differences of spelling that OpenAI itself has: messages[0].role, messages.[0].role."""
    return re.sub(r"\.(?=\[)", "", param) if isinstance(param, str) else param


def about(what: str, got: str) -> str:
    """`got`, after what it is about."""
    return f"{what}: {got}" if what else got


def first_choice(body: dict[str, Any]) -> dict[str, Any]:
    """The first choice of a completion."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Failed(f"choices is {show(choices)}")
    choice: dict[str, Any] = choices[0]
    return choice


def message_of(body: dict[str, Any]) -> dict[str, Any]:
    """The first choice's message."""
    message = first_choice(body).get("message")
    if not isinstance(message, dict):
        raise Failed(f"message is {show(message)}")
    return message


def content_of(body: dict[str, Any]) -> str:
    """The first choice's text."""
    content = message_of(body).get("content")
    if not isinstance(content, str):
        raise Failed(f"content is {show(content)}")
    return content
