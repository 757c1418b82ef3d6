"""The command line, `penstock VERB`; a verb's module is imported when it is asked for, not for the list of verbs."""

from __future__ import annotations

import importlib

import click
import msgspec

from penstock import __version__


class Verb(msgspec.Struct, frozen=True):
    """Where a verb's command stands, and what the list says of it."""

    module: str
    name: str
    summary: str


VERBS = {
    "serve": Verb("penstock.verbs.serve", "serve", "Serve the API."),
    "keys": Verb("penstock.verbs.keys", "keys", "Make, list, edit and revoke API keys."),
    "projects": Verb("penstock.verbs.projects", "projects", "Make, list, edit and archive projects of keys."),
    "limits": Verb("penstock.verbs.limits", "limits", "Set, list and remove limits of keys and projects."),
    "usage": Verb("penstock.verbs.usage", "usage", "Tell what was used: requests, tokens, dollars."),
    "migrate": Verb("penstock.verbs.migrate", "migrate", "Bring the database to this version's schema."),
    "chat": Verb("penstock.verbs.chat", "chat", "Talk to a model of a running server."),
    "check": Verb("penstock.verbs.check_url", "check_url", "Check anyone's OpenAI-compatible server."),
    "check-config": Verb("penstock.verbs.check_config", "check_config", "Check a configuration file."),
    "fake-upstream": Verb("penstock.fake_upstream.command", "fake_upstream", "Serve a scripted upstream, for tests."),
}


class Verbs(click.Group):
    """A group that knows its verbs by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command: click.Command = getattr(importlib.import_module(verb.module), verb.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]}, subcommand_metavar="VERB ...")
@click.version_option(__version__, prog_name="penstock")
def main() -> None:
    """OpenAI Chat Completions from your own machines: one endpoint over hosted providers and local weights.

    \b
    Examples:
      penstock serve
      penstock serve --config penstock.toml
      penstock chat "What does Penstock do?"
      penstock keys create --name reports
    """
