"""`make fuzz`: the long form, on OpenAI's own document, against the built-in model, a plain and a strict provider."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from fuzz.running import PHASES, Target, fuzz, openai_document

TARGETS: tuple[Target, ...] = ("local", "provider", "strict")


def statuses(log: str) -> Counter[int]:
    """How often the gateway answered with which status, by its access lines."""
    return Counter(int(status) for status in re.findall(r'^{.*"status":(\d+)', log, re.MULTILINE))


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    documents = parser.add_mutually_exclusive_group()
    documents.add_argument("--spec", type=Path, help="an OpenAPI document (default: OpenAI's, as of the lock)")
    documents.add_argument("--sdk", action="store_true", help="one that is made of the types of OpenAI's SDK")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all, one after the other")
    parser.add_argument("--examples", default="500", help="cases for each route in the fuzzing phase")
    parser.add_argument("--phases", default=PHASES)
    parser.add_argument("--route", help="only this one, such as /v1/chat/completions")
    given = parser.parse_args()
    options = ["--max-examples", given.examples, "--phases", given.phases, "--generation-database", "none"]
    if given.route:
        options += ["--include-path", given.route]
    spec = None if given.sdk else given.spec or openai_document()
    found = 0
    for target in given.target or TARGETS:
        print(f"fuzz: {spec or 'the types of the SDK'} against {target}", flush=True)
        ran = fuzz(spec and spec.resolve(), target, *options)
        print(ran.report)
        print("fuzz: answers by status:", dict(sorted(statuses(ran.log).items())), flush=True)
        if "Traceback" in ran.log:
            print(f"fuzz: the gateway failed\n{ran.log}")
        found |= ran.status or "Traceback" in ran.log
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
