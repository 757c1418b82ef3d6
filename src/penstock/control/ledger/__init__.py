"""The ledger: the workers' journals are read, settled, priced and stored.

`reading` finds requests in a journal's files, `rows` says what each has come to, `drain` does it for all journals of a
data directory and keeps the store's outages from everybody else.
"""

from penstock.control.ledger.drain import Drain as Drain
from penstock.control.ledger.rows import Price as Price
