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

# name: (module, click command, one line of help); in flow order
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("coinspace.supervisor", "up", "Run everything, supervised."),
    "orderbook-collector": (
        "coinspace.collector.worker",
        "orderbook_collector",
        "Publish one exchange's order books on the bus.",
    ),
    "ticker-collector": (
        "coinspace.collector.worker",
        "ticker_collector",
        "Publish one exchange's tickers and trades on the bus.",
    ),
    "orderbook-storage-worker": (
        "coinspace.storage.worker",
        "orderbook_storage_worker",
        "Store order books in QuestDB.",
    ),
    "ticker-storage-worker": (
        "coinspace.storage.worker",
        "ticker_storage_worker",
        "Store tickers and trades in QuestDB.",
    ),
    "orderbook-aggregator": (
        "coinspace.aggregator.worker",
        "orderbook_aggregator",
        "Sum the books of all exchanges into one per asset.",
    ),
    "index-calculator": (
        "coinspace.index.worker",
        "index_calculator",
        "Compute and store the index from the summed books.",
    ),
    "index-endpoint": (
        "coinspace.endpoint.worker",
        "index_endpoint",
        "Serve the HTTP API, streams and the dashboard.",
    ),
    "status": ("coinspace.observe.commands", "status", "Show each process's state."),
    "top": ("coinspace.observe.commands", "top", "Watch rates and latencies of all processes."),
    "doctor": ("coinspace.observe.commands", "doctor", "Check this host and list what is missing."),
    "deploy": ("coinspace.deploy", "deploy", "Write systemd units for a host."),
    "config": ("coinspace.config_file", "config", "Write, show or check the configuration."),
    "questdb": ("coinspace.storage.commands", "questdb", "Run the private QuestDB server."),
    "backup": (
        "coinspace.storage.backup",
        "backup_command",
        "Copy a data folder while the platform runs.",
    ),
    "restore": (
        "coinspace.storage.backup",
        "restore_command",
        "Copy a backup into an empty data folder.",
    ),
    "query": ("coinspace.query", "query", "Print indices, books and history."),
    "keys": ("coinspace.endpoint.commands", "keys", "Manage API keys."),
    "simulate": (
        "coinspace.simulator.commands",
        "simulate",
        "Serve or record simulated markets.",
    ),
    "replay": ("coinspace.simulator.commands", "replay", "Serve recordings as the exchange would."),
    "record": ("coinspace.collector.commands", "record", "Record raw frames of exchanges."),
    "feed": ("coinspace.recording.commands", "feed", "Inspect, cut, merge and convert recordings."),
    "decode": ("coinspace.recording.decode", "decode", "Decode raw frames into JSON lines."),
    "books": ("coinspace.collector.commands", "books", "Print a feed's top of book per update."),
    "markets": ("coinspace.collector.commands", "markets", "List what an exchange offers."),
    "probe": ("coinspace.collector.commands", "probe", "Check the facts that the code relies on."),
    "journal": ("coinspace.bus.commands", "journal", "List, print and verify journals."),
    "reconcile": ("coinspace.storage.commands", "reconcile", "Check that every message is stored."),
    "compute-index": (
        "coinspace.recompute.commands",
        "compute_index",
        "Compute the index offline.",
    ),
    "verify-index": ("coinspace.recompute.commands", "verify_index", "Recompute stored records."),
    "index-reset-clock": (
        "coinspace.index.commands",
        "index_reset_clock",
        "Show stored ticks with a future time, or declare them void.",
    ),
    "verify-chain": ("coinspace.index.commands", "verify_chain", "Check the daily hash chain."),
    "bench": ("coinspace.bench.commands", "bench", "Measure the stages on this machine."),
    "profile": ("coinspace.bench.profile", "profile", "Profile one stage on a feed."),
}


class LazyGroup(click.Group):
    """A click group that imports a command's module only when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


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
