"""Network namespaces that are joined by a bridge: hosts of their own, as far as sockets and monotonic clocks go.

It takes root and iproute2 (`apt install iproute2`). Everything is removed at the end, and nothing else is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

NETWORK = "10.213.47"


class Namespace(msgspec.Struct, frozen=True):
    """`prefix` runs a command in it; it is reached at `address`."""

    prefix: tuple[str, ...]
    address: str


def why_not() -> str:
    """Why there can be none here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip, of Debian's iproute2"
    name = f"penstock-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    _run("ip", "netns", "delete", name)
    return ""


@contextmanager
def namespaces(count: int) -> Iterator[tuple[str, Sequence[Namespace]]]:
    """So many, and the address at which all of them reach who made them."""
    pid, here = os.getpid(), f"{NETWORK}.1"
    bridge = f"psbr{pid}"
    with ExitStack() as stack:
        _run("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(_run, "ip", "link", "delete", bridge)
        _run("ip", "address", "add", f"{here}/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        made = []
        for number in range(count):
            name, outer, inner = f"penstock-{pid}-{number}", f"pso{pid}x{number}", f"psi{pid}x{number}"
            address = f"{NETWORK}.{number + 2}"
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "delete", name)
            _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
            _run("ip", "link", "set", outer, "master", bridge, "up")
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", inner)
            _run("ip", "-n", name, "link", "set", inner, "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            clock = ("unshare", "--time", "--monotonic", str(100_000 * (number + 1)))
            made.append(Namespace(("ip", "netns", "exec", name, *clock), address))
        yield here, made


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
