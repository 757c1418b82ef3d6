"""The limits in the parent: `front` answers workers and the ledger, `questions` says what is asked, `leases` what is
out, `recalls` brings back what lies unused, `board` tells what is left."""

from penstock.control.counters.board import Board as Board
from penstock.control.counters.front import Counters as Counters
from penstock.control.counters.front import Policy as Policy
from penstock.control.counters.front import Sources as Sources
