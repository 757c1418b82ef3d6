"""The routes of kept chat completions: fetched, listed, edited and forgotten, each caller its project's own.

The parent has the store and is asked; here a request becomes a question and what was found OpenAI's objects. An answer
is given as its client got it, byte for byte, but for its metadata.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from penstock.errors import InvalidRequest, NotFound, Overloaded
from penstock.link import AnswersFound, DropAnswer, EditAnswer, FindAnswer, ListAnswers
from penstock.types import JSON, KeptAnswer, Page
from penstock.wire.chat import decode_metadata
from penstock.wire.members import join, split

PATH = b"/v1/chat/completions/"
MESSAGES = b"/messages"
MOST = 100  # of one page
FIELDS = 64  # of a query

Question = FindAnswer | ListAnswers | EditAnswer | DropAnswer
Ask = Callable[[Callable[[int], Question]], Awaitable[AnswersFound | None]]

_encode = msgspec.json.Encoder().encode
_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_NULL = msgspec.Raw(b"null")
_EMPTY = (b"null", b"{}")


class Stored:
    """Kept answers as one worker serves them. `ask` puts a question, given its number, to the parent: None where it
    does not answer."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def retrieve(self, scope: str, answer_id: str) -> bytes:
        return _shown(await self._find(scope, answer_id))

    async def list(self, scope: str, query: bytes) -> bytes:
        given = _parameters(query)
        limit, descending, after = _paging(given)
        page = Page(limit, descending, after, given.get("model", ""), _metadata(given))
        found = await self._found(lambda ref: ListAnswers(ref, scope, page))
        if found is None:
            raise _missing(after, "after")
        return _list([msgspec.Raw(_shown(one)) for one in found.answers], [one.id for one in found.answers], found.more)

    async def messages(self, scope: str, answer_id: str, query: bytes) -> bytes:
        """What the answer was given to, numbered."""
        limit, descending, after = _paging(_parameters(query))
        answer = await self._find(scope, answer_id)
        named = [(f"{answer.id}-{number}", message) for number, message in enumerate(_objects(answer.messages))]
        if descending:
            named.reverse()
        if after:
            ids = [name for name, _ in named]
            if after not in ids:
                raise _missing(after, "after")
            named = named[ids.index(after) + 1 :]
        page = named[:limit]
        return _list([_message(*one) for one in page], [name for name, _ in page], len(named) > limit)

    async def edit(self, scope: str, answer_id: str, body: bytes) -> bytes:
        metadata = decode_metadata(body)
        found = await self._found(lambda ref: EditAnswer(ref, scope, answer_id, metadata))
        return _shown(_one(found, answer_id))

    async def drop(self, scope: str, answer_id: str) -> bytes:
        if await self._found(lambda ref: DropAnswer(ref, scope, answer_id)) is None:
            raise _missing(answer_id, "completion_id")
        return _encode({"object": "chat.completion.deleted", "id": answer_id, "deleted": True})

    async def _find(self, scope: str, answer_id: str) -> KeptAnswer:
        return _one(await self._found(lambda ref: FindAnswer(ref, scope, answer_id)), answer_id)

    async def _found(self, question: Callable[[int], Question]) -> AnswersFound | None:
        """What was found; None where what was named is not there. Raises Overloaded."""
        found = await self._ask(question)
        if found is None or not found.available:
            raise Overloaded(
                "The store of chat completions does not answer; try again shortly.", headers=((b"Retry-After", b"1"),)
            )
        return found if found.there else None


def answer_id_of(path: bytes) -> str:
    """The id in a path below PATH."""
    return unquote(path[len(PATH) :].removesuffix(MESSAGES).decode("ascii", "replace"), errors="replace")


def _parameters(query: bytes) -> dict[str, str]:
    """The query's parameters; of one that is repeated the last."""
    try:
        return dict(parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=FIELDS))
    except ValueError as error:
        raise InvalidRequest(f"The query has more than {FIELDS} parameters.") from error


def _paging(given: dict[str, str]) -> tuple[int, bool, str]:
    """Limit, whether in descending order, and the cursor."""
    limit, order = given.get("limit", "20"), given.get("order", "asc")
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 9 and 1 <= int(limit) <= MOST):
        raise InvalidRequest(
            f"Invalid 'limit': expected a whole number from 1 to {MOST}.", param="limit", code="invalid_value"
        )
    if order not in ("asc", "desc"):
        raise InvalidRequest("Invalid 'order': expected 'asc' or 'desc'.", param="order", code="invalid_value")
    return int(limit), order == "desc", given.get("after", "")


def _metadata(given: dict[str, str]) -> dict[str, str]:
    """The pairs that are asked for, each as ``metadata[name]=value``."""
    pairs = {}
    for name, value in given.items():
        if name.startswith("metadata["):
            pairs[name.removeprefix("metadata[").removesuffix("]")] = value
        elif name == "metadata" and value:
            raise InvalidRequest(
                "Invalid 'metadata': write each pair as metadata[name]=value.", param="metadata", code="invalid_type"
            )
    return pairs


def _shown(answer: KeptAnswer) -> bytes:
    """The object as its client got it, with its metadata."""
    members = split(answer.body)
    if answer.metadata:
        members["metadata"] = msgspec.Raw(_encode(answer.metadata))
    elif bytes(members.get("metadata", _NULL)) in _EMPTY:
        return answer.body
    else:
        members["metadata"] = _NULL
    return join(members)


def _list(data: list[Any], ids: list[str], more: bool) -> bytes:
    first, last = (ids[0], ids[-1]) if ids else ("", "")  # strings, by OpenAI's document
    return _encode({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})


def _message(name: str, message: dict[str, msgspec.Raw]) -> JSON:
    """A message of a request as a stored one: content in parts has a place of its own."""
    content = message.get("content", _NULL)
    in_parts = bytes(content)[:1] == b"["
    parts = {"content": _NULL if in_parts else content, "content_parts": content if in_parts else _NULL}
    return {"refusal": _NULL, **message, "id": name, **parts}


def _one(found: AnswersFound | None, answer_id: str) -> KeptAnswer:
    if found is None:
        raise _missing(answer_id, "completion_id")
    return found.answers[0]


def _missing(answer_id: str, param: str) -> NotFound:
    shown = answer_id[:64] if answer_id.isprintable() else "?"
    return NotFound(f"There is no chat completion '{shown}', or it is not kept.", param=param, code="not_found")
