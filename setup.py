"""Compiles the hot path with mypyc when a wheel is built; everything else about the package is in pyproject.toml.

The compiled modules are ordinary typed Python and run the same uncompiled, which is how an editable install, or
PENSTOCK_PURE=1, has them. The wire and the providers read hostile bytes and are not compiled: there mypyc differs from
Python in corners that their tests found. See docs/decisions/0006.
"""

from __future__ import annotations

import os
import sys

from mypyc.build import mypycify
from setuptools import setup

HOT_PATH = (
    "gateway/accounting.py",
    "gateway/api.py",
    "gateway/auth.py",
    "gateway/complete.py",
    "gateway/exchange.py",
    "gateway/heads.py",
    "gateway/relay.py",
    "gateway/routing.py",
    "gateway/telemetry.py",
    "gateway/upstream.py",
    "http/client.py",
    "http/connection.py",
    "http/rules.py",
)

building = {"bdist_wheel", "build_ext"} & set(sys.argv)  # reading the metadata compiles nothing
pure = os.environ.get("PENSTOCK_PURE") == "1"
setup(
    ext_modules=mypycify([f"src/penstock/{module}" for module in HOT_PATH], opt_level="2", debug_level="0")
    if building and not pure
    else []
)
