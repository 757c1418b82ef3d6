"""`make soak`: every scenario one after the other; ARGS="--scenario model" is one, and the rest of ARGS goes to it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from soak import hangups, hosts, kills, ledger, minute, model, outages

SCENARIOS: dict[str, Callable[[Sequence[str]], int]] = {
    "model": model.main,
    "hangups": hangups.main,
    "minute": minute.main,
    "hosts": hosts.main,
    "kills": kills.main,
    "outages": outages.main,
    "ledger": ledger.main,
}


def main() -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="make soak ARGS=", description=__doc__)
    parser.add_argument("--scenario", choices=SCENARIOS, help="default: all, by their own defaults")
    given, rest = parser.parse_known_args()
    if given.scenario is not None:
        return SCENARIOS[given.scenario](rest)
    if rest:
        parser.error(f"of which scenario is {rest[0]}?")
    failed = [name for name, run in SCENARIOS.items() if run(())]
    print(f"wrong: {', '.join(failed)}" if failed else "nothing was wrong")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
