"""What every store raises when it cannot answer."""


class StoreUnavailable(Exception):
    """The store cannot answer now, or cannot be used at all; the message says why and what to do."""
