"""The provider for OpenAI and for every server that speaks its Chat Completions form.

The request goes out as it came in, but for what must differ at this target: the model's name, the request for usage,
and what its family of models takes in another form (`openai_request`). Those members are patched into the original
bytes; unknown ones survive byte for byte. The request head is made in advance, one per key and form of answer; the
caller's own key and headers never travel.

`Dialect` says in what one service differs from another; a service is a row of `providers.registry`. What its models
take are rows of `providers.capabilities`; which of them a target belongs to is looked up once and remembered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal
from urllib.parse import urlencode, urlsplit

import msgspec

from penstock import __version__
from penstock.errors import Failure
from penstock.providers.base import AnyRequest, Call, Origin, Reader
from penstock.providers.capabilities import PLAIN, Family, find
from penstock.providers.openai_answer import BodyReader, StreamReader
from penstock.providers.openai_errors import failure_of
from penstock.providers.openai_neighbours import neighbour_reader
from penstock.providers.openai_request import Rules
from penstock.providers.openai_rewrite import BodyRewriter, Edits, StreamRewriter
from penstock.providers.secrets import Secret
from penstock.types import Target
from penstock.wire.chat import ChatRequest
from penstock.wire.naming import Naming
from penstock.wire.neighbours import DECODERS, Endpoint, NeighbourRequest
from penstock.wire.params import AllowedChoice, ToolChoice
from penstock.wire.patch import patch

# Fields that the client or the form of the request decides.
_RESERVED = frozenset({"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type"})
_RESERVED |= {"expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_URL = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9_.:-]+")
_PORTS = {"http": 80, "https": 443}

_ASK_USAGE = b'{"include_usage":true}'

# Names of models come from callers where a route passes them on: few of them are remembered, and no long ones.
_MOST_NAMES = 4096
_LONGEST_NAME = 128

Fault = tuple[tuple[str, ...], str, str]  # the path of a setting, what is wrong with it, what to do
Reasoning = Literal["reasoning_content", "reasoning", "parts", "tags"]


class Dialect(msgspec.Struct, frozen=True):
    """In what a service differs from OpenAI's published form.

    `base_url`: the service's own; None where the user has to give it. `key_env`: the environment variable that
    usually holds its key, used for the service's own base_url alone. `key_header`: where the key goes, as a bearer
    token if it is authorization. `families`: what its models take. `stream_options`: whether it takes that parameter;
    where not, it reports usage unasked. `reasoning`: where reasoning text comes; "tags" among it means that it may
    come between think tags in the content. In words: `usage`, where a stream reports it, and `quirks`, what else a
    reader of its answers must bear. `source`: the page that says so.
    """

    base_url: str | None
    key_env: str | None = None
    key_header: str = "authorization"
    families: tuple[Family, ...] = PLAIN
    stream_options: bool = True
    reasoning: tuple[Reasoning, ...] = ()
    usage: str = ""
    quirks: str = ""
    source: str = ""


class OpenAISettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user configures. `api_key` and the values of `headers`: env:NAME, file:/path or the value itself.

    Of several keys, each request takes the next. `query` is added to the URL of every request. `probe`: the path, below
    `base_url`, that is asked whether the server is back while its breaker is open.
    """

    base_url: str | None = None
    api_key: str | tuple[str, ...] | None = None
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    probe: Annotated[str, msgspec.Meta(pattern="^/[!-~]{0,255}$")] | None = None


class _StreamOptions(msgspec.Struct):
    stream_options: dict[str, msgspec.Raw]


_decode_stream_options = msgspec.json.Decoder(_StreamOptions).decode


class OpenAI:
    """One configured upstream; see `providers.base.Provider`. Raises ValueError for settings that cannot work."""

    lacks = ()  # what a server behind it lacks is a setting of the target

    def __init__(
        self,
        name: str,
        settings: OpenAISettings,
        dialect: Dialect,
        environ: Mapping[str, str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._dialect = dialect
        self._now = now
        where = f"providers.{name}"
        for path, message, fix in problems(settings, dialect, environ):
            raise ValueError(f"{where}.{'.'.join(path)}: {message}; {fix}")
        self.origin, self._path = _locate(settings.base_url or dialect.base_url or "")
        self._query = f"?{urlencode(settings.query)}" if settings.query else ""
        self._keys = [Secret(one, f"{where}.api_key", environ) for one in _references(settings, dialect)]
        self._headers = {
            header.lower(): Secret(reference, f"{where}.headers.{header}", environ)
            for header, reference in settings.headers.items()
        }
        self.probe: Call | None = None
        self._probe = settings.probe
        self._heads: list[tuple[bytes, bytes]] = []
        self._neighbour_heads: dict[Endpoint, list[tuple[bytes, bytes]]] = {}
        self._turn = 0
        self._tags = "tags" in dialect.reasoning
        # By whether unsupported parameters are left out; for each family, and for each name as it is asked for.
        self._families = [{row: Rules(row, drops) for row in dialect.families} for drops in (False, True)]
        self._rules: list[dict[str, Rules]] = [{}, {}]
        self._make_heads()

    def prepare(self, asked: AnyRequest, target: Target) -> Call:
        """The call that answers `asked` at `target`."""
        if not isinstance(asked, ChatRequest):  # eight times faster, for what is one, than asking for the other
            return self._prepare_neighbour(asked, target)
        rules = self._rules[target.drop_unsupported].get(target.like or target.model) or self._find_rules(target)
        body = asked.body
        if target.model != asked.model or rules.roles or not rules.touched.isdisjoint(asked.fields):
            body = self._adapted(asked, target, rules)
        heads = self._heads
        if len(heads) == 1:
            return Call(heads[0][asked.stream], body)
        self._turn = (self._turn + 1) % len(heads)
        return Call(heads[self._turn][asked.stream], body)

    def _adapted(self, asked: ChatRequest, target: Target, rules: Rules) -> bytes:
        """The body that the target is to have. Whatever member is looked at here is among `rules.touched`."""
        put: dict[str, bytes] = {}
        drop: tuple[str, ...] = ()
        if target.model != asked.model:
            put["model"] = msgspec.json.encode(target.model)
        if asked.stream and not (asked.include_usage and self._dialect.stream_options):
            drop = self._patch_stream_options(asked, put)
        # Empty lists mean none here, and are errors at OpenAI.
        if "stop" in asked.fields and not asked.stop:
            drop += ("stop",)
        if "tools" in asked.fields and not asked.tools:
            drop += ("tools", "tool_choice", "parallel_tool_calls")
        if asked.store:  # it is kept here; OpenAI takes metadata only where it is kept there
            drop += ("store", "metadata")
        if not rules.watched.isdisjoint(asked.fields):
            drop += rules.adapt(asked, put)
        if rules.roles:
            rules.rename(asked, put)
        return patch(asked.body, put, drop) if put or drop else asked.body

    def reader(self, asked: AnyRequest, target: Target) -> Reader:
        """A new reader for the answer to that call."""
        if not isinstance(asked, ChatRequest):
            return neighbour_reader(self.name, asked)
        inner: Reader
        bound = _forces(asked.tool_choice)
        if asked.stream:
            naming = Naming(target.model, self._now)
            inner = StreamReader(self.name, asked.include_usage, asked.n, naming, bound, target.skips_malformed)
        else:
            inner = BodyReader(self.name, target.model, self._now, bound)
        if asked.stop or self._tags or target.drop_unsupported:
            return self._rewriter(inner, asked, target)
        return inner

    def _rewriter(self, inner: Reader, chat: ChatRequest, target: Target) -> Reader:
        """What is put behind a reader whose answers may need to be edited, or whose request was."""
        rules = self._find_rules(target)
        stops = chat.stop if rules.cuts else ()
        left_out = rules.unsupported(chat)
        if not (stops or self._tags or left_out):
            return inner
        head = f"x-penstock-dropped: {', '.join(left_out)}\r\n".encode() if left_out else b""
        edits = Edits(self.name, stops, self._tags, chat.n, chat.include_usage, len(chat.body), head)
        return StreamRewriter(inner, edits) if chat.stream else BodyRewriter(inner, edits)

    def _find_rules(self, target: Target) -> Rules:
        """What requests to this target must be like."""
        name, drops = target.like or target.model, target.drop_unsupported
        known = self._rules[drops]
        rules = known.get(name)
        if rules is None:
            rules = self._families[drops][find(self._dialect.families, name)]
            if len(known) >= _MOST_NAMES:
                known.clear()
            if len(name) <= _LONGEST_NAME:
                known[name] = rules
        return rules

    def failure(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Failure:
        """Classify an answer outside 2xx."""
        return failure_of(self.name, status, headers, body, self._now())

    def refresh(self) -> None:
        """Read changed secret files again."""
        changed = [secret.refresh() for secret in (*self._keys, *self._headers.values())]
        if any(changed):
            self._make_heads()

    def _make_heads(self) -> None:
        extra = "".join(f"{name}: {secret.value}\r\n" for name, secret in self._headers.items())
        if "user-agent" not in self._headers:
            extra += f"user-agent: penstock/{__version__}\r\n"
        form = f"{self._dialect.key_header}: %s\r\n" % (
            "Bearer %s" if self._dialect.key_header == "authorization" else "%s"
        )
        credentials = [form % key.value for key in self._keys] or [""]
        rests = [f"{credential}{extra}content-type: application/json\r\n" for credential in credentials]
        self._heads = self._heads_of("chat/completions", rests)
        self._neighbour_heads = {endpoint: self._heads_of(endpoint, rests) for endpoint in DECODERS}
        if self._probe is not None:
            start = f"GET {self._path}{self._probe}{self._query} HTTP/1.1\r\nhost: {_authority(self.origin)}\r\n"
            self.probe = Call(f"{start}{rests[0]}accept: application/json\r\n".encode(), b"")

    def _heads_of(self, endpoint: str, rests: Sequence[str]) -> list[tuple[bytes, bytes]]:
        """For each credential, the head of a request for a body and of one for a stream."""
        start = f"POST {self._path}/{endpoint}{self._query} HTTP/1.1\r\nhost: {_authority(self.origin)}\r\n"
        return [
            (
                f"{start}{rest}accept: application/json\r\n".encode(),
                f"{start}{rest}accept: text/event-stream\r\n".encode(),
            )
            for rest in rests
        ]

    def _prepare_neighbour(self, asked: NeighbourRequest, target: Target) -> Call:
        put: dict[str, bytes] = {}
        drop: tuple[str, ...] = ()
        if target.model != asked.model:
            put["model"] = msgspec.json.encode(target.model)
        asks_usage = asked.include_usage and self._dialect.stream_options
        if asked.endpoint == "completions" and asked.stream and not asks_usage:
            drop = self._patch_stream_options(asked, put)
        body = patch(asked.body, put, drop) if put or drop else asked.body
        heads = self._neighbour_heads[asked.endpoint]
        self._turn = (self._turn + 1) % len(heads)
        return Call(heads[self._turn][asked.stream], body)

    def _patch_stream_options(self, chat: AnyRequest, put: dict[str, bytes]) -> tuple[str, ...]:
        """Ask for usage, keeping the caller's other options; return what to drop where the service refuses them."""
        given = "stream_options" in chat.fields
        if not self._dialect.stream_options:
            return ("stream_options",) if given else ()
        if given:
            options = _decode_stream_options(chat.body).stream_options
            put["stream_options"] = msgspec.json.encode({**options, "include_usage": True})
        else:
            put["stream_options"] = _ASK_USAGE
        return ()


def _forces(choice: ToolChoice | None) -> bool:
    """Whether the caller leaves the model no choice but to call a tool, or none."""
    if isinstance(choice, AllowedChoice):
        return choice.allowed_tools.mode == "required"
    return choice not in (None, "auto")


def problems(settings: OpenAISettings, dialect: Dialect, environ: Mapping[str, str]) -> Iterator[Fault]:
    """All that keeps these settings from working."""
    base_url = settings.base_url if settings.base_url is not None else dialect.base_url
    if base_url is None:
        yield ("base_url",), "missing", "say where this server listens, as in https://host/v1"
    elif wrong := _wrong(_locate, base_url):
        yield ("base_url",), wrong, "write it as https://host/v1 or http://host:port/v1"
    references = _references(settings, dialect)
    for reference in references:
        if wrong := _wrong(Secret, reference, "", environ):
            yield ("api_key",), wrong, "set api_key to the key, to env:NAME or to file:/path"
    known: dict[str, str] = {dialect.key_header: "api_key"} if references else {}
    for given, reference in settings.headers.items():
        name = given.lower()
        if not _FIELD_NAME.fullmatch(name):
            yield ("headers", given), "not a header field's name", "use letters, digits and dashes"
        elif name in _RESERVED:
            yield ("headers", given), "cannot be set", "remove it"
        elif name in known:
            yield ("headers", given), f"cannot be set beside {known[name]}, which is the same header", "remove one"
        elif wrong := _wrong(Secret, reference, "", environ):
            yield ("headers", given), wrong, "write plain ASCII, env:NAME or file:/path"
        known.setdefault(name, given)


def _wrong(make: Callable[..., object], *given: object) -> str:
    """What keeps something from being made of what is given; empty if nothing does."""
    try:
        make(*given)
    except ValueError as error:
        return str(error).removeprefix(": ")
    return ""


def _references(settings: OpenAISettings, dialect: Dialect) -> tuple[str, ...]:
    """The keys; without any, at the service's own address, the variable that usually holds one."""
    given = (settings.api_key,) if isinstance(settings.api_key, str) else settings.api_key or ()
    if settings.base_url is None and not given and dialect.key_env is not None:
        return (f"env:{dialect.key_env}",)
    return given


def _locate(base_url: str) -> tuple[Origin, str]:
    """The origin and the path, without a slash at its end, of a base URL. Raises ValueError."""
    if not _URL.fullmatch(base_url):
        raise ValueError("holds a space, a control or a non-ASCII character, or is empty")
    try:
        url = urlsplit(base_url)
        port = url.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from error
    if url.scheme not in _PORTS or not _HOST.fullmatch(url.hostname or ""):
        raise ValueError("must look like https://host/v1 or http://host:port/v1")
    if "@" in url.netloc:
        raise ValueError("must not hold a user or password; use api_key or headers")
    if url.query or url.fragment or "?" in base_url:
        raise ValueError("must not hold a query or fragment; use query")
    if port == 0:
        raise ValueError("port 0 cannot be connected to")
    return Origin(url.scheme, url.hostname or "", port or _PORTS[url.scheme]), url.path.rstrip("/")


def _authority(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == _PORTS[origin.scheme] else f"{host}:{origin.port}"
