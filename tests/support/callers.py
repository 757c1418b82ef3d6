"""A caller without an SDK: what it sends goes over the wire as it is, and what comes back is looked at as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from support.serving import Served

HELLO = [{"role": "user", "content": "Hello!"}]
PATIENCE = 60.0


class Caller:
    """Asks one model of a gateway. Members given as None are sent as null."""

    def __init__(self, served: Served, http: httpx.Client, model: str) -> None:
        self.served = served
        self.http = http
        self.model = model

    @property
    def is_local(self) -> bool:
        """Whether the model runs on the local engine, and not behind a provider."""
        return self.model == DEMO

    def body(self, **members: Any) -> dict[str, Any]:
        """A request for a short answer that is always the same."""
        return {"model": self.model, "messages": HELLO, **members}

    def chat(self, **members: Any) -> httpx.Response:
        """Ask for a chat completion."""
        return self.post(json.dumps(self.body(**members)).encode())

    def post(self, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        """Send this very body; header names are given with underscores."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(path, content=body, headers={"content-type": "application/json", **fields})

    def answer(self, **members: Any) -> Any:
        """The whole answer, which must be one."""
        response = self.chat(**members)
        assert response.status_code == 200, response.text
        return response.json()

    def refusal(self, **members: Any) -> Any:
        """The error of a 400."""
        return error_of(self.chat(**members), 400)

    def stream(self, **members: Any) -> list[Any]:
        """The chunks of a stream, which must end as one that is whole."""
        response = self.chat(stream=True, **members)
        assert response.status_code == 200, response.text
        *events, nothing = response.text.split("\n\n")
        assert nothing == ""
        assert events.pop() == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events]


def error_of(response: httpx.Response, status: int) -> Any:
    """The error in the envelope, which must be all that there is."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert {"message", "type", "param", "code"} <= body["error"].keys()
    assert body["error"]["message"]
    return body["error"]


def text_of(answer: Any, index: int = 0) -> str:
    """The content of one choice, of a whole answer or of the chunks of a stream."""
    if isinstance(answer, dict):
        return str(answer["choices"][index]["message"]["content"])
    deltas = [choice["delta"] for chunk in answer for choice in chunk["choices"] if choice["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


HOSTED = "gpt-5.4"
DEMO = "demo"


@contextmanager
def client(served: Served) -> Iterator[httpx.Client]:
    """An HTTP client with the server's key, which takes nothing from the environment."""
    with httpx.Client(base_url=served.url, headers=served.headers, trust_env=False, timeout=PATIENCE) as http:
        yield http
