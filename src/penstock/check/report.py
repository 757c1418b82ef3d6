"""A finished run as tables for people and as one JSON object for programs.

Whatever a server said is shown as plain text: neither terminal codes nor rich's own markup in it take effect.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.check.catalogue import SECTIONS
from penstock.check.run import (
    FAILED,
    INFORMATION,
    NOT_REACHED,
    PASSED,
    RESULTS,
    SKIPPED,
    UNSUPPORTED,
    Finding,
    Report,
)

_STYLES = {PASSED: "green", FAILED: "bold red", UNSUPPORTED: "yellow", SKIPPED: "dim", INFORMATION: "cyan"}


def as_json(report: Report) -> str:
    """The report as one JSON object; docs/check.md lists its members."""
    rows = [
        {
            "id": finding.row.id,
            "level": finding.row.level,
            "result": finding.result,
            "asks": finding.row.asks,
            "expects": finding.row.expects,
            "got": finding.got,
            "why": finding.row.why,
            "breaks": finding.row.breaks,
            "requests": finding.requests,
            "tokens": finding.tokens,
            "duration_ms": round(finding.duration_ms, 1),
        }
        for finding in report.findings
    ]
    whole = {
        "url": report.url,
        "model": report.model,
        "exit_status": report.exit_status,
        "stopped": report.stopped,
        "counts": {result: report.count(result) for result in RESULTS},
        "spent": {
            "requests": report.requests,
            "tokens": report.tokens,
            "tokens_estimated": report.tokens_estimated,
            "tokens_budget": report.budget,
            "waits": report.waits,
            "seconds_waited": round(report.seconds_waited, 1),
            "duration_seconds": round(report.duration_seconds, 1),
        },
        "rows": rows,
    }
    return json.dumps(whole, ensure_ascii=False, indent=2)


def show_report(report: Report, console: Console) -> None:
    """Every row in a table, then what failed and the rest that has something to tell, then the sums."""
    console.print(_all_rows(report))
    for result, title in (
        (FAILED, "Failed"),
        (UNSUPPORTED, "Not supported, and cleanly refused"),
        (INFORMATION, "What this server does where servers differ"),
        (SKIPPED, "Not asked"),
    ):
        findings = [finding for finding in report.findings if finding.result == result and finding.got != NOT_REACHED]
        if findings:
            console.print()
            console.print(Text(title, style="bold"))
            console.print(_failures(findings) if result == FAILED else _notes(findings))
    console.print()
    for line in summary_lines(report):
        console.print(Text(line))


def summary_lines(report: Report) -> Iterator[str]:
    """The sums in words."""
    counts = ", ".join(f"{report.count(result)} {result}" for result in RESULTS if report.count(result))
    yield f"{report.url}, {report.model}: {counts}."
    estimated = f" ({report.tokens_estimated} of them estimated)" if report.tokens_estimated else ""
    yield (
        f"{report.requests} requests, {report.tokens} tokens{estimated} of a budget of {report.budget}, "
        f"{report.duration_seconds:.1f} s."
    )
    if report.waits:
        yield f"The server's rate limit was waited out {report.waits} times, {report.seconds_waited:.0f} s in all."
    if report.stopped is not None:
        yield f"Stopped before the end: {report.stopped}."


def _all_rows(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("row", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("what is asked", ratio=4)
    table.add_column("what is expected", ratio=5, style="dim")
    table.add_column("result", no_wrap=True)
    section = ""
    for finding in report.findings:
        row = finding.row
        if row.id[0] != section:
            section = row.id[0]
            table.add_row("", "", Text(SECTIONS[section], style="bold"))
        result = Text(finding.result, style=_STYLES[finding.result])
        table.add_row(row.id, row.level, Text(row.asks), Text(row.expects), result)
    return table


def _failures(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for finding in findings:
        row = finding.row
        table.add_row(Text(row.id, style="bold red"), "asked", Text(row.asks))
        for name, text in (
            ("expected", row.expects),
            ("came", finding.got or ""),
            ("matters", row.why),
            ("breaks", row.breaks),
        ):
            table.add_row("", name, Text(text, style="bold" if name == "came" else ""))
    return table


def _notes(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        table.add_row(finding.row.id, Text(f"{finding.row.asks}: {finding.got or 'nothing to tell'}"))
    return table
