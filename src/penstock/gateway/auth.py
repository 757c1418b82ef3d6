"""Turns the Authorization header into a Principal: from the worker's cache, or by asking the parent.

Only digests are kept and compared, so neither a memory dump nor timing tells a key. The cache holds known and
unknown keys alike and is emptied whole when the parent says that keys changed: a revoked key stops, and a new one
works, as soon as that message arrives. An answer that was on its way when keys changed is used but not kept.

A key that expires is refused from that moment on, whatever is cached.

An address that sends many bad keys is answered 429 without a lookup for the rest of its minute. A key that is known,
or was before keys changed, passes all the same: others behind that address are not locked out. A missing or malformed
key is not a guess, costs no lookup, and does not count.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Awaitable, Callable

from penstock.errors import AuthenticationFailed, Overloaded, RateLimited
from penstock.link import KeyAnswer
from penstock.types import Principal

MAX_TOKEN = 512
MAX_CACHED = 20_000
MAX_ADDRESSES = 20_000
WINDOW = 60.0

Lookup = Callable[[bytes], Awaitable[KeyAnswer]]
_CHALLENGE = ((b"WWW-Authenticate", b"Bearer"),)


class Auth:
    """Keys as one worker knows them. `on_failure` is told why: missing, malformed, unknown, expired or throttled.

    `expiring`: whether a key is cached that will expire. `epoch`: how often keys changed; what was found of a key in
    this one holds to its end, but for its expiry.
    """

    def __init__(
        self,
        lookup: Lookup,
        clock: Callable[[], float],
        failures_per_minute: int,
        on_failure: Callable[[str], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._lookup = lookup
        self._clock = clock
        self.failures_per_minute = failures_per_minute
        self._on_failure = on_failure
        self._wall_clock = wall_clock
        self.expiring = False
        self._cache: dict[bytes, tuple[bytes, Principal | None]] = {}
        self._once_known: set[bytes] = set()  # digests of keys that were good before keys changed
        self.epoch = 0
        self._failures: dict[str, tuple[float, int]] = {}  # address -> start of its window, failures in it

    def forget(self) -> None:
        """Keys changed: nothing that was known holds."""
        if len(self._once_known) > MAX_CACHED:
            self._once_known.clear()
        self._once_known.update(digest for digest, (_, principal) in self._cache.items() if principal is not None)
        self._cache.clear()
        self.epoch += 1

    def identify(self, authorization: bytes | None, address: str) -> Principal | Awaitable[Principal]:
        """Whose key it is; awaitable where the parent must be asked. Either way raises AuthenticationFailed,
        RateLimited, or Overloaded when the key store cannot answer."""
        token = self._token(authorization)
        digest = hashlib.sha256(token).digest()
        entry = self._cache.get(digest)
        if entry is None:
            if digest not in self._once_known:
                self._throttle(address)
            return self._ask(digest, token, address)
        known, principal = entry
        if principal is None or not hmac.compare_digest(known, digest):
            raise self._unknown(token, address)
        if principal.expires_at is not None:
            self.check_expiry(principal.expires_at)
        return principal

    async def works(self, authorization: bytes) -> bool | None:
        """Whether a key that was good when its request began still is; None while nobody can say."""
        digest = hashlib.sha256(self._token(authorization)).digest()
        entry = self._cache.get(digest)
        if entry is not None:
            return entry[1] is not None
        answer = await self._look_up(digest)
        return answer.principal is not None if answer.available else None

    def check_expiry(self, expires_at: float) -> None:
        """Raises AuthenticationFailed once that moment, in Unix seconds, has come."""
        if expires_at <= self._wall_clock():
            self._on_failure("expired")
            raise AuthenticationFailed(
                "This API key has expired. Ask whoever runs this gateway for a new one.", headers=_CHALLENGE
            )

    def _token(self, authorization: bytes | None) -> bytes:
        if authorization is None:
            self._on_failure("missing")
            raise AuthenticationFailed(
                "No API key was provided. Send it in the header 'Authorization: Bearer YOUR_API_KEY'.",
                headers=_CHALLENGE,
            )
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not token or b" " in token or len(token) > MAX_TOKEN:
            self._on_failure("malformed")
            raise AuthenticationFailed(
                "The Authorization header is malformed. It must read 'Authorization: Bearer YOUR_API_KEY'.",
                headers=_CHALLENGE,
            )
        return token

    async def _ask(self, digest: bytes, token: bytes, address: str) -> Principal:
        answer = await self._look_up(digest)
        if not answer.available:
            raise Overloaded(
                "The key store does not answer, so the key could not be checked; try again shortly.",
                headers=((b"Retry-After", b"1"),),
            )
        if answer.principal is None:
            raise self._unknown(token, address)
        if answer.principal.expires_at is not None:
            self.check_expiry(answer.principal.expires_at)
        return answer.principal

    async def _look_up(self, digest: bytes) -> KeyAnswer:
        """The parent's answer, which is kept unless keys changed meanwhile."""
        epoch = self.epoch
        answer = await self._lookup(digest)
        if answer.available and epoch == self.epoch:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[digest] = (digest, answer.principal)
            if answer.principal is not None and answer.principal.expires_at is not None:
                self.expiring = True
        return answer

    def _unknown(self, token: bytes, address: str) -> AuthenticationFailed:
        self._throttle(address)
        self._on_failure("unknown")
        self._count_failure(address)
        return AuthenticationFailed(
            f"Incorrect API key provided: {_masked(token)}. Ask whoever runs this gateway for a key.",
            headers=_CHALLENGE,
        )

    def _count_failure(self, address: str) -> None:
        now = self._clock()
        start, count = self._failures.get(address, (now, 0))
        if now - start >= WINDOW:
            start, count = now, 0
        if len(self._failures) >= MAX_ADDRESSES and address not in self._failures:
            self._failures.clear()
        self._failures[address] = (start, count + 1)

    def _throttle(self, address: str) -> None:
        start, count = self._failures.get(address, (0.0, 0))
        left = start + WINDOW - self._clock()
        if count >= self.failures_per_minute and left > 0:
            self._on_failure("throttled")
            raise RateLimited(
                "Too many requests with a bad API key came from this address. Correct the key, then try again later.",
                headers=((b"Retry-After", b"%d" % math.ceil(left)), (b"x-should-retry", b"false")),
            )


def _masked(token: bytes) -> str:
    """Enough to recognise one's own key: never more than eight characters, and none of a short one."""
    text = token.decode("ascii", "replace")
    if len(text) < 16 or not text.isprintable():
        return "***"
    return f"{text[:4]}***{text[-4:]}"
