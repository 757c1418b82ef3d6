"""`make chaos`: ten minutes of chaos; ARGS="--scenario outage" and "--scenario storm" are the others, of a minute."""

from __future__ import annotations

import argparse
import random
import sys

from chaos.chaos_run import chaos
from chaos.outage import outage
from chaos.storm import storm

PROBE_INTERVAL = 2.0  # the default's
STORM = 70.0  # a minute without a 429 ends the pressure, and that must not be the next flood


def main() -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="make chaos ARGS=", description=__doc__)
    parser.add_argument("--scenario", choices=("chaos", "outage", "storm"), default="chaos")
    parser.add_argument("--seconds", type=float, help="default: 600, 60 of an outage, 70 of a storm")
    parser.add_argument("--seed", type=int, help="repeats the plan of a run (default: one of its own)")
    parser.add_argument("--clients", type=int, default=100, help="of the chaos (default: 100)")
    given = parser.parse_args()

    def tell(line: str) -> None:
        print(f"{given.scenario}: {line}", flush=True)

    if given.scenario == "chaos":
        seed = random.randrange(1_000_000) if given.seed is None else given.seed
        tell(f"seed {seed}")
        outcome = chaos(given.seconds or 600.0, seed, given.clients, tell)
    elif given.scenario == "outage":
        outcome = outage(given.seconds or 60.0, PROBE_INTERVAL, tell)
    else:
        outcome = storm(given.seconds or STORM, tell)
    print(outcome.told())
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    sys.exit(main())
