"""The house keeps its own law: layers, strangers, budgets, and where the rules may be bent.

Every rule is a function from a set of modules to a list of complaints. Each is run over `src/penstock`, where it
must find nothing, and over small sources that break it, where it must complain: a rule that cannot fail guards nothing.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SRC = Path(__file__).parents[1] / "src"

# From the top down: a module imports only from rows below its own. A pattern is a module and all that is in it; `a.*`
# gives each module in `a` a room of its own, `a*` each module whose name begins so. The most specific pattern wins.
# Rooms of one row are strangers to each other; inside one room, modules may import each other.
LAYERS = (
    ("python -m penstock", ("penstock.__main__",)),
    ("command line", ("penstock.cli",)),
    ("verbs", ("penstock.verbs", "penstock.fake_upstream")),
    ("the check of servers", ("penstock.check",)),
    ("composition roots", ("penstock.gateway.worker", "penstock.control.parent")),
    ("edges", ("penstock.gateway.api", "penstock.control.admin")),
    ("a request explained, or run once", ("penstock.gateway.explain", "penstock.gateway.idempotency")),
    ("the path of a request", ("penstock.gateway.complete",)),
    ("an answer rescued, or kept", ("penstock.gateway.rescue", "penstock.gateway.keeping")),
    ("the relay", ("penstock.gateway.relay",)),
    ("stages and rooms", ("penstock.gateway.*", "penstock.control.*")),
    ("what is said of limits", ("penstock.gateway.limited",)),
    (
        "what stages and rooms share",
        (
            *("penstock.gateway.heads", "penstock.gateway.journal", "penstock.gateway.refusals"),
            "penstock.control.patience",
        ),
    ),
    ("the exchange", ("penstock.gateway.exchange",)),
    ("adapters", ("penstock.providers", "penstock.stores", "penstock.engine")),
    ("the data directory", ("penstock.data_dir",)),
    ("protocols", ("penstock.http", "penstock.wire", "penstock.link", "penstock.journal")),
    ("configuration", ("penstock.config",)),
    ("values", ("penstock.types", "penstock.limits", "penstock.ticks")),
    ("errors", ("penstock.errors", "penstock")),
)

ROOTS = ("penstock.gateway.worker", "penstock.control.parent")

# What must not be reached from a room by any chain of imports.
UNREACHABLE = {
    "penstock.gateway": (
        *("penstock.control", "penstock.stores", "penstock.engine", "sqlalchemy", "aiosqlite", "sqlite3", "alembic"),
        *("starlette", "uvicorn", "click", "rich", "prometheus_client", "xllamacpp"),
    ),
    "penstock.control": ("penstock.gateway",),
}

# Room -> what it may import of other rooms, and nothing else of them. Composition roots name concrete classes.
NARROW = (
    ("penstock.gateway", "penstock.providers", ("penstock.providers.base",)),
    ("penstock.control", "penstock.stores", ("penstock.stores.base",)),
    ("penstock.fake_upstream", "penstock", ("penstock.wire", "penstock.errors", "penstock.types")),
    ("penstock.check", "penstock", ()),
)

# A module -> who may use it. Whoever makes calls upstream decides when they are repeated: there is one retry owner.
KEPT_FOR = {
    "penstock.http.client": ("penstock.http", "penstock.gateway.upstream", "penstock.gateway.worker"),
    "penstock.http.connecting": ("penstock.http", "penstock.gateway.upstream", "penstock.gateway.worker"),
}

# The data path opens no connection outside http; the worker hands inherited sockets to it.
SOCKETLESS = ("penstock.gateway", "penstock.providers", "penstock.wire")
SOCKET_MODULES = (
    "socket",
    "ssl",
    "select",
    "selectors",
    "socketserver",
    "httptools",
    "uvloop",
    "http",
    "urllib.request",
)
SOCKET_CALLS = (
    *("create_connection", "create_server", "create_unix_connection", "create_unix_server", "open_connection"),
    *("open_unix_connection", "start_server", "start_unix_server", "sock_connect", "sock_recv", "sock_sendall"),
)

FILE_LINES = 600
FUNCTION_LINES = 60
PARAMETERS = 8

# Where a broad `except` stands, and why it may.
BROAD_EXCEPTS: dict[tuple[str, str], str] = {
    ("penstock.gateway.api", "Api.answer"): "the top edge: a fault of ours must end in an answer",
    ("penstock.http.carrier", "Carrier.step"): "nobody waits for the end of an answer that could be told",
    ("penstock.gateway.telemetry", "Telemetry._have"): "an observer that fails stops neither the next nor the request",
}

# Where an import inside a function, or by name, stands, and what makes it worth that.
LATE_IMPORTS: dict[tuple[str, str], str] = {
    ("penstock.cli", "Verbs.get_command"): "a verb pays for no other's imports",
    ("penstock.control.parent", "_load"): "SQLAlchemy, Starlette and prices are imported while the workers start",
    ("penstock.stores.database", "_load"): "a database pays for no other's driver, and for Alembic only to migrate",
}


class Module(NamedTuple):
    name: str
    tree: ast.Module
    lines: int
    package: bool = False


House = dict[str, Module]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def the_house() -> House:
    house = {}
    for path in sorted((SRC / "penstock").rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        text = path.read_text(encoding="utf-8")
        house[name] = Module(name, ast.parse(text), text.count("\n"), package)
    return house


def house_of(sources: dict[str, str]) -> House:
    return {name: Module(name, ast.parse(text), text.count("\n") + 1) for name, text in sources.items()}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def room_of(name: str) -> tuple[int, str] | None:
    """The row of LAYERS, and the room in it, of the most specific pattern that fits."""
    best: tuple[int, int, str] | None = None
    for row, (_, patterns) in enumerate(LAYERS):
        for pattern in patterns:
            stem = pattern.removesuffix("*").removesuffix(".")
            if pattern.endswith(".*") and within(name, stem):
                room = ".".join(name.split(".")[: stem.count(".") + 2])
            elif (pattern.endswith("*") and name.startswith(stem)) or (pattern == stem == "penstock" == name):
                room = name
            elif stem != "penstock" and within(name, stem):
                room = stem
            else:
                continue
            if best is None or len(stem) > best[0]:
                best = (len(stem), row, room)
    return None if best is None else best[1:]


def imports(module: Module, house: House) -> Iterator[tuple[str, int]]:
    """Every module that `module` names in an import, at any depth, and the line."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                parts = parts[: len(parts) - node.level + (1 if module.package else 0)]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                yield (deeper if deeper in house else base), node.lineno


def functions(module: Module) -> Iterator[tuple[str, Function, bool]]:
    """Every function with its qualified name, and whether it is a method."""

    def walk(node: ast.AST, prefix: str, in_class: bool) -> Iterator[tuple[str, Function, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield prefix + child.name, child, in_class
                yield from walk(child, f"{prefix}{child.name}.", False)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.", True)
            else:
                yield from walk(child, prefix, in_class)

    yield from walk(module.tree, "", False)


def owner(module: Module, line: int) -> str:
    """The qualified name of the innermost function around a line; empty at module level."""
    around = [(f.lineno, name) for name, f, _ in functions(module) if f.lineno <= line <= (f.end_lineno or 0)]
    return max(around, default=(0, ""))[1]


# ---- the rules --------------------------------------------------------------------------------------------------


def every_module_has_a_layer(house: House) -> list[str]:
    return [f"{name} stands in no row of LAYERS" for name in house if room_of(name) is None]


def imports_go_downward_and_strangers_stay_strangers(house: House) -> list[str]:
    wrong = []
    for module in house.values():
        here = room_of(module.name)
        for target, line in imports(module, house):
            there = room_of(target) if within(target, "penstock") else None
            if here is None or there is None or here == there or here[0] < there[0]:
                continue
            how = "its stranger" if here[0] == there[0] else "the higher"
            wrong.append(f"{module.name}:{line} imports {how} {target} ({LAYERS[there[0]][0]})")
    return wrong


def the_planes_never_reach_what_is_not_theirs(house: House) -> list[str]:
    direct = {name: {target for target, _ in imports(module, house)} for name, module in house.items()}
    wrong = []
    for start in house:
        banned = [ban for room, bans in UNREACHABLE.items() if within(start, room) for ban in bans]
        chains: dict[str, str] = {start: start}
        todo = [start] if banned else []
        while todo:
            name = todo.pop()
            for target in direct.get(name, ()):
                if target not in chains:
                    chains[target] = f"{chains[name]} -> {target}"
                    todo.append(target)
        wrong += [chain for target, chain in chains.items() if any(within(target, ban) for ban in banned)]
    return wrong


def rooms_see_only_the_protocols_of_others(house: House) -> list[str]:
    wrong = []
    for module in house.values():
        for room, other, allowed in NARROW:
            if not within(module.name, room) or module.name in ROOTS:
                continue
            for target, line in imports(module, house):
                if within(target, other) and not any(within(target, fine) for fine in (room, *allowed)):
                    wrong.append(f"{module.name}:{line} imports {target}; of {other} it may see {', '.join(allowed)}")
    return wrong


def one_owner_makes_calls(house: House) -> list[str]:
    wrong = []
    for module in house.values():
        for target, line in imports(module, house):
            for kept, users in KEPT_FOR.items():
                if within(target, kept) and not any(within(module.name, user) for user in users):
                    wrong.append(f"{module.name}:{line} imports {target}, which is kept for {', '.join(users)}")
    return wrong


def http_alone_touches_sockets(house: House) -> list[str]:
    wrong = []
    for module in house.values():
        if module.name in ROOTS or not any(within(module.name, room) for room in SOCKETLESS):
            continue
        for target, line in imports(module, house):
            if any(within(target, banned) for banned in SOCKET_MODULES):
                wrong.append(f"{module.name}:{line} imports {target}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in SOCKET_CALLS:
                wrong.append(f"{module.name}:{node.lineno} uses {node.attr}")
    return wrong


def no_import_cycle(house: House) -> list[str]:
    edges = {
        name: sorted({target for target, _ in imports(module, house)} & house.keys() - {name})
        for name, module in house.items()
    }
    wrong: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            wrong.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in edges[name]:
                visit(target, [*path, name])
            done.add(name)

    for name in house:
        visit(name, [])
    return wrong


def files_are_short(house: House) -> list[str]:
    return [f"{m.name} has {m.lines} lines, over {FILE_LINES}" for m in house.values() if m.lines > FILE_LINES]


def functions_are_short(house: House) -> list[str]:
    wrong = []
    for module in house.values():
        for name, function, _ in functions(module):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES:
                wrong.append(f"{module.name}:{function.lineno} {name} has {lines} lines, over {FUNCTION_LINES}")
    return wrong


def functions_take_few_parameters(house: House) -> list[str]:
    wrong = []
    for module in house.values():
        if module.name in ROOTS:
            continue
        for name, function, is_method in functions(module):
            a = function.args
            named = [arg.arg for arg in (*a.posonlyargs, *a.args)]
            count = len(named) + len(a.kwonlyargs) + (a.vararg is not None) + (a.kwarg is not None)
            count -= is_method and named[:1] in (["self"], ["cls"])
            if count > PARAMETERS:
                wrong.append(f"{module.name}:{function.lineno} {name} takes {count} parameters, over {PARAMETERS}")
    return wrong


def no_global_statement(house: House) -> list[str]:
    return [
        f"{module.name}:{node.lineno} global {', '.join(node.names)}"
        for module in house.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Global)
    ]


def late_imports(module: Module) -> Iterator[int]:
    for _, function, _ in functions(module):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield node.lineno
    for node in ast.walk(module.tree):  # and by name, wherever it stands
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in ("import_module", "__import__"):
                yield node.lineno


def no_import_inside_a_function(house: House) -> list[str]:
    return listed_only(house, late_imports, LATE_IMPORTS, "imports late")


def broad_excepts(module: Module) -> Iterator[int]:
    def broad(node: ast.expr | None) -> bool:
        if isinstance(node, ast.Tuple):
            return any(broad(item) for item in node.elts)
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        return node is None or name in ("Exception", "BaseException")

    def passes_on(handler: ast.ExceptHandler) -> bool:
        """Whether it cleans up and raises the same again: then it hides nothing."""
        last = handler.body[-1]
        leaves = any(isinstance(node, ast.Return | ast.Break | ast.Continue) for node in ast.walk(handler))
        return isinstance(last, ast.Raise) and last.exc is None and not leaves

    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and broad(node.type) and not passes_on(node):
            yield node.lineno
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "suppress" and any(broad(arg) for arg in node.args):
                yield node.lineno


def broad_excepts_stand_only_where_listed(house: House) -> list[str]:
    return listed_only(house, broad_excepts, BROAD_EXCEPTS, "catches everything")


def listed_only(
    house: House, find: Callable[[Module], Iterator[int]], listed: dict[tuple[str, str], str], what: str
) -> list[str]:
    """Complain of each place that is not listed, and of each listed place that is no more."""
    found = {(m.name, owner(m, line)): line for m in house.values() for line in find(m)}
    wrong = [
        f"{name}:{line} {place or 'module'} {what}"
        for (name, place), line in found.items()
        if (name, place) not in listed
    ]
    gone = [key for key in listed if key[0] in house and key not in found]
    return wrong + [f"{name} {place} is listed and no longer {what}" for name, place in gone]


RULES: tuple[Callable[[House], list[str]], ...] = (
    every_module_has_a_layer,
    imports_go_downward_and_strangers_stay_strangers,
    the_planes_never_reach_what_is_not_theirs,
    rooms_see_only_the_protocols_of_others,
    one_owner_makes_calls,
    http_alone_touches_sockets,
    no_import_cycle,
    files_are_short,
    functions_are_short,
    functions_take_few_parameters,
    no_global_statement,
    no_import_inside_a_function,
    broad_excepts_stand_only_where_listed,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_every_rule(rule: Callable[[House], list[str]]) -> None:
    assert not rule(the_house()), "\n".join(rule(the_house()))


LONG_BODY = "\n".join(f"    x = {i}" for i in range(FUNCTION_LINES))

BROKEN: tuple[tuple[Callable[[House], list[str]], dict[str, str], str], ...] = (
    (every_module_has_a_layer, {"penstock.utils": ""}, "penstock.utils"),
    (
        imports_go_downward_and_strangers_stay_strangers,
        {"penstock.errors": "import penstock.types", "penstock.types": ""},
        "imports the higher penstock.types",
    ),
    (
        imports_go_downward_and_strangers_stay_strangers,
        {"penstock.gateway.auth": "from penstock.gateway import routing", "penstock.gateway.routing": ""},
        "imports its stranger penstock.gateway.routing",
    ),
    (
        imports_go_downward_and_strangers_stay_strangers,
        {"penstock.gateway.relay": "from .api import App", "penstock.gateway.api": ""},
        "imports the higher penstock.gateway.api",
    ),
    (
        imports_go_downward_and_strangers_stay_strangers,
        {"penstock.wire.chat": "def f():\n    import penstock.http.client", "penstock.http.client": ""},
        "penstock.wire.chat:2 imports its stranger penstock.http.client",
    ),
    (
        the_planes_never_reach_what_is_not_theirs,
        {"penstock.gateway.worker": "import penstock.link", "penstock.link": "from sqlalchemy.ext import asyncio"},
        "penstock.gateway.worker -> penstock.link -> sqlalchemy.ext",
    ),
    (
        the_planes_never_reach_what_is_not_theirs,
        {"penstock.control.parent": "from penstock.gateway.worker import main", "penstock.gateway.worker": ""},
        "penstock.control.parent -> penstock.gateway.worker",
    ),
    (
        rooms_see_only_the_protocols_of_others,
        {"penstock.gateway.upstream": "from penstock.providers import openai", "penstock.providers.openai": ""},
        "imports penstock.providers.openai",
    ),
    (
        rooms_see_only_the_protocols_of_others,
        {"penstock.control.keys": "import penstock.stores.sql"},
        "imports penstock.stores.sql",
    ),
    (
        rooms_see_only_the_protocols_of_others,
        {"penstock.fake_upstream": "import penstock.http.server"},
        "imports penstock.http.server",
    ),
    (
        one_owner_makes_calls,
        {"penstock.gateway.relay": "from penstock.http.client import Pool", "penstock.http.client": ""},
        "penstock.gateway.relay:1 imports penstock.http.client",
    ),
    (http_alone_touches_sockets, {"penstock.gateway.upstream": "import socket"}, "imports socket"),
    (http_alone_touches_sockets, {"penstock.providers.x": "loop.create_connection(f)"}, "uses create_connection"),
    (
        no_import_cycle,
        {
            "penstock.stores.base": "import penstock.stores.sql",
            "penstock.stores.sql": "from penstock.stores import schema",
            "penstock.stores.schema": "from penstock.stores.base import Keys",
        },
        "penstock.stores.base -> penstock.stores.sql -> penstock.stores.schema -> penstock.stores.base",
    ),
    (files_are_short, {"penstock.types": "\n" * FILE_LINES}, "601 lines"),
    (functions_are_short, {"penstock.types": f"class A:\n  async def f():\n{LONG_BODY}"}, "A.f has 61 lines"),
    (functions_take_few_parameters, {"penstock.types": "def f(a, b, /, c, d, *e, f, g, h, i): ..."}, "f takes 9"),
    (no_global_statement, {"penstock.types": "def f():\n    global state"}, "penstock.types:2 global state"),
    (
        no_import_inside_a_function,
        {"penstock.types": "def f():\n    from os import path"},
        "penstock.types:2 f imports",
    ),
    (no_import_inside_a_function, {"penstock.types": "m = importlib.import_module('x')"}, "module imports late"),
    (broad_excepts_stand_only_where_listed, {"penstock.types": "try: ...\nexcept: ..."}, "module catches everything"),
    (
        broad_excepts_stand_only_where_listed,
        {"penstock.types": "class A:\n  def f():\n    try: ...\n    except (OSError, Exception): ..."},
        "A.f catches everything",
    ),
    (
        broad_excepts_stand_only_where_listed,
        {"penstock.types": "for x in y:\n  try: ...\n  except BaseException:\n    if x: continue\n    raise"},
        "catches everything",
    ),
    (
        broad_excepts_stand_only_where_listed,
        {"penstock.types": "with contextlib.suppress(builtins.BaseException): ..."},
        "catches everything",
    ),
)


@pytest.mark.parametrize(("rule", "sources", "complaint"), BROKEN)
def test_a_rule_complains_of_what_breaks_it(
    rule: Callable[[House], list[str]], sources: dict[str, str], complaint: str
) -> None:
    assert complaint in "\n".join(rule(house_of(sources)))


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize(
    "sources",
    [
        {"penstock.gateway.complete": "from penstock.gateway import relay, auth", "penstock.gateway.auth": ""},
        {"penstock.providers.openai": "from penstock.providers.base import Provider\nfrom penstock.wire import sse"},
        {"penstock.gateway.worker": "import socket\nfrom penstock.providers import registry"},
        {"penstock.gateway.upstream": "import penstock.http.client\nfrom penstock.providers.base import Provider"},
        {"penstock.types": "class A:\n  def f(self, a, b, c, d, e, f, g, h): ...\ntry: ...\nexcept OSError: ..."},
        {"penstock.http.client": "try: ...\nexcept BaseException:\n  close()\n  raise"},
    ],
)
def test_what_the_design_allows_draws_no_complaint(sources: dict[str, str]) -> None:
    assert [complaint for rule in RULES for complaint in rule(house_of(sources))] == []


def test_every_row_of_the_layers_stands_for_a_module_that_exists() -> None:
    used = {room_of(name) for name in the_house()}
    rows = {
        (row, pattern.removesuffix("*").removesuffix(".")) for row, (_, some) in enumerate(LAYERS) for pattern in some
    }
    empty = [
        stem for row, stem in rows if not any(u is not None and u[0] == row and u[1].startswith(stem) for u in used)
    ]
    assert empty == []


def test_a_listed_place_that_is_gone_is_reported() -> None:
    complaints = listed_only(
        house_of({"penstock.types": ""}), broad_excepts, {("penstock.types", "f"): "why"}, "catches"
    )
    assert complaints == ["penstock.types f is listed and no longer catches"]


def test_a_worker_imports_only_the_data_path() -> None:
    code = "import penstock.gateway.worker, sys; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    loaded = ran.stdout.split()
    assert "penstock.gateway.worker" in loaded
    assert [name for name in loaded for ban in UNREACHABLE["penstock.gateway"] if within(name, ban)] == []
