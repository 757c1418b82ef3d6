"""What a caller is told when an attempt failed: contract decision 1, in one table."""

from __future__ import annotations

from penstock.errors import (
    Failure,
    FailureKind,
    Headers,
    ModelNotFound,
    Overloaded,
    RateLimited,
    Refusal,
    UpstreamFailed,
    UpstreamTimeout,
)
from penstock.types import Target

LONGEST_WAIT = 86_400.0  # seconds that a caller is told to wait, whatever the upstream says
# Seconds that every official SDK waits when told to. Beyond them openai-node ignores what it was told and tries twice
# within seconds, which cannot help.
SDK_PATIENCE = 60.0

NO_RETRY = (b"x-should-retry", b"false")


class UpstreamRefusal(Refusal):
    """An upstream's own verdict on the caller's request, passed on with its status and body unchanged."""

    type = "invalid_request_error"

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.status = failure.status  # type: ignore[misc]  # of this instance: 400, 413, 415 or 422
        self.body = failure.body


def blamed(refusal: Refusal) -> str:
    """Whose fault it was, as a record's `ended` says it."""
    return "failed" if refusal.status >= 500 else "refused"


def refusal_for(failure: Failure, target: Target) -> Refusal:
    """The refusal that an uncommitted failure becomes."""
    kind = failure.kind
    if kind is FailureKind.INVALID:
        return UpstreamRefusal(failure)
    if kind is FailureKind.REFUSED_US:
        if failure.model_missing and target.wildcard:
            return ModelNotFound(f"The model `{target.model[:64]}` does not exist or you do not have access to it.")
        # The operator has to act: a caller's second and third try would be refused alike.
        return UpstreamFailed(failure.message, code="upstream_refused", headers=(NO_RETRY,))
    if failure.quota_spent:
        return RateLimited(failure.message, code="insufficient_quota", headers=(NO_RETRY,))
    if kind in (FailureKind.RATE_LIMITED, FailureKind.PRESSED):
        return RateLimited(failure.message, headers=_retry_after(failure))
    if kind is FailureKind.UNHEALTHY or (kind is FailureKind.UNAVAILABLE and failure.status in (503, 529)):
        return Overloaded(failure.message, code="upstream_overloaded", headers=_retry_after(failure))
    if kind is FailureKind.TIMEOUT_POOL:
        return Overloaded(failure.message, code="upstream_overloaded", headers=((b"Retry-After", b"1"),))
    if kind.value.startswith("timeout"):
        return UpstreamTimeout(failure.message)
    if kind is FailureKind.TOO_LARGE:
        return UpstreamFailed(failure.message, headers=(NO_RETRY,))
    if kind is FailureKind.CONNECT:
        return UpstreamFailed(failure.message, code="upstream_unreachable")
    return UpstreamFailed(failure.message)


def _retry_after(failure: Failure) -> Headers:
    """Whole seconds, rounded up, for everyone; milliseconds for the SDKs, which prefer them."""
    if failure.retry_after is None:
        return ()
    wait_ms = int(min(max(failure.retry_after, 0.001), LONGEST_WAIT) * 1000)
    hints = ((b"Retry-After", b"%d" % -(-wait_ms // 1000)), (b"retry-after-ms", b"%d" % wait_ms))
    return hints if wait_ms <= SDK_PATIENCE * 1000 else (*hints, NO_RETRY)
