"""What a run may spend: tokens and requests, reserved before each request and settled after it.

The reservation is the worst case: the prompt by its bytes, three to a token, and every token of output allowed for.
What the server reports replaces it; where nothing is reported the reservation stands, and is counted as estimated. A
reservation that does not fit ends the run before the request is sent.
"""

from __future__ import annotations

BYTES_PER_TOKEN = 3


class Stopped(Exception):
    """The run ends here: the message says why."""


class TooMuch(Stopped):
    """A request does not fit into what is left of the tokens."""


class Budget:
    """Counts a run's spending; `tokens` and `requests` are the most that it may be."""

    def __init__(self, tokens: int, requests: int) -> None:
        self.tokens = tokens
        self.requests = requests
        self.tokens_spent = 0
        self.tokens_estimated = 0
        self.requests_made = 0
        self.waits = 0
        self.seconds_waited = 0.0

    def reserve(self, worst: int) -> None:
        """Take a request and its worst case; raises Stopped where either does not fit."""
        if self.requests_made >= self.requests:
            raise Stopped(f"the ceiling of {self.requests} requests is reached (--max-requests)")
        if self.tokens_spent + worst > self.tokens:
            raise TooMuch(
                f"the next request could exceed the budget of {self.tokens} tokens (--tokens): "
                f"{self.tokens_spent} are spent, and it may take {worst}"
            )
        self.requests_made += 1
        self.tokens_spent += worst

    def settle(self, worst: int, reported: int | None) -> None:
        """Put what was reported in the place of the reservation; None leaves it, as an estimate."""
        if reported is None:
            self.tokens_estimated += worst
        else:
            self.tokens_spent += reported - worst

    def waited(self, seconds: float) -> None:
        """Note a wait that the server asked for."""
        self.waits += 1
        self.seconds_waited += seconds
