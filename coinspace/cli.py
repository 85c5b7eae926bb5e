"""The `coinspace` command: a table of lazily imported subcommands, so that `--help` stays fast."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from coinspace import __version__
from coinspace.errors import CoinSpaceError
from coinspace.text import printable, printable_lines

# characters of an error's line: an error that lists many names exceeds the limit of a table cell
ERROR_LIMIT = 4000
DEBUG = "COINSPACE_DEBUG"

# command: (module that defines it under this name, one line of help); in flow order
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("supervisor", "Run everything, supervised."),
    "orderbook-collector": ("collector.worker", "Publish one exchange's order books on the bus."),
    "ticker-collector": (
        "collector.worker",
        "Publish one exchange's tickers and trades on the bus.",
    ),
    "orderbook-storage-worker": ("storage.worker", "Store order books in QuestDB."),
    "ticker-storage-worker": ("storage.worker", "Store tickers and trades in QuestDB."),
    "orderbook-aggregator": (
        "aggregator.worker",
        "Sum the books of all exchanges into one per asset.",
    ),
    "index-calculator": ("index.worker", "Compute and store the index from the summed books."),
    "index-endpoint": ("endpoint.worker", "Serve the HTTP API, streams and the dashboard."),
    "status": ("observe.commands", "Show each process's state."),
    "top": ("observe.commands", "Watch rates and latencies of all processes."),
    "doctor": ("observe.commands", "Check this host and list what is missing."),
    "deploy": ("deploy", "Write systemd units for a host."),
    "config": ("config_file", "Write, show or check the configuration."),
    "questdb": ("storage.commands", "Run the private QuestDB server."),
    "backup": ("storage.backup", "Copy a data folder while the platform runs."),
    "restore": ("storage.backup", "Copy a backup into an empty data folder."),
    "query": ("query", "Print indices, books and history."),
    "keys": ("endpoint.commands", "Manage API keys."),
    "simulate": ("simulator.commands", "Serve or record simulated markets."),
    "replay": ("simulator.commands", "Serve recordings as the exchange would."),
    "record": ("collector.commands", "Record raw frames of exchanges."),
    "feed": ("recording.commands", "Inspect, cut, merge and convert recordings."),
    "decode": ("recording.decode", "Decode raw frames into JSON lines."),
    "books": ("collector.commands", "Print a feed's top of book per update."),
    "markets": ("collector.commands", "List what an exchange offers."),
    "probe": ("collector.commands", "Check the facts that the code relies on."),
    "journal": ("bus.commands", "List, print and verify journals."),
    "reconcile": ("storage.commands", "Check that every message is stored."),
    "compute-index": ("recompute.commands", "Compute the index offline."),
    "verify-index": ("recompute.commands", "Recompute stored records."),
    "index-reset-clock": (
        "index.commands",
        "Show stored ticks with a future time, or declare them void.",
    ),
    "verify-chain": ("index.commands", "Check the daily hash chain."),
    "bench": ("bench.commands", "Measure the stages on this machine."),
    "profile": ("bench.profile", "Profile one stage on a feed."),
}


class LazyGroup(click.Group):
    """A click group that imports a command's module only when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"coinspace.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _debug(context: click.Context, option: click.Parameter, chosen: bool) -> None:
    # in the environment, so that child processes inherit it
    if chosen:
        os.environ[DEBUG] = "1"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_debug,
    help=f"show where an unexpected error comes from (or {DEBUG}=1)",
)
def coinspace() -> None:
    """Realtime crypto market data: collect, sum, index, serve."""


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line; an error is one line on stderr and exit code 1."""
    # A supervised process writes to a log file, where a traceback helps. Looked up before the run,
    # which removes the variable.
    supervised = "COINSPACE_PARENT" in os.environ
    try:
        return coinspace.main(args, prog_name="coinspace")
    except CoinSpaceError as error:
        text = str(error).replace("\n", "; ")
    except Exception as error:
        text = _unexpected(error)
        if supervised or os.environ.get(DEBUG):
            trace = "".join(traceback.format_exception(error)).rstrip()
            print(printable_lines(trace), file=sys.stderr)
        else:
            text += f"; {DEBUG}=1 shows where it comes from"
    print(f"coinspace: {printable(text, ERROR_LIMIT)}", file=sys.stderr)
    raise SystemExit(1)


def _unexpected(error: Exception) -> str:
    # the text of a group names no cause; the text of its first error does
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(one) for one in (error.filename, error.strerror) if one)
    return f"{type(error).__name__}: {error}"
