"""The `coinspace` command: a table of lazily imported subcommands, so that `--help` stays fast."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

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


# heading of `--help` -> its commands, and an example of each
GROUPS: dict[str, dict[str, str]] = {
    "Run and watch": {
        "up": "coinspace up --simulate",
        "status": "coinspace status --json",
        "top": "coinspace top --once",
        "doctor": "coinspace doctor",
    },
    "Read data": {
        "query": "coinspace query ohlc BTC --interval 1m --output btc.parquet",
        "keys": "coinspace keys new alice",
    },
    "Set up": {
        "config": "coinspace config init",
        "deploy": "coinspace deploy systemd --output units",
        "questdb": "coinspace questdb status",
        "backup": "coinspace backup /backup/today",
        "restore": "coinspace restore /backup/today",
        "journal": "coinspace journal ls",
    },
    "Recordings": {
        "record": "coinspace record --market BTC/KRW --duration 60",
        "simulate": "coinspace simulate --record day --duration 60",
        "replay": "coinspace replay day-upbit.feed.zst",
        "feed": "coinspace feed info day-upbit.feed.zst",
    },
    "Exchanges and raw frames": {
        "markets": "coinspace markets upbit",
        "probe": "coinspace probe upbit",
        "decode": "coinspace decode upbit day-upbit.feed.zst",
        "books": "coinspace books day-binance.feed.zst --check",
    },
    "Recompute and prove": {
        "compute-index": "coinspace compute-index day-*.feed.zst --output index.parquet",
        "verify-index": (
            "coinspace verify-index --feeds data/feeds"
            " --from 2026-01-31T09:00:00Z --to 2026-01-31T10:00:00Z"
        ),
        "verify-chain": "coinspace verify-chain",
        "index-reset-clock": "coinspace index-reset-clock",
        "reconcile": "coinspace reconcile",
    },
    "Measure": {
        "bench": "coinspace bench --stage parse",
        "profile": "coinspace profile parse",
    },
    "Single processes, which `up` starts": {
        "orderbook-collector": "coinspace orderbook-collector upbit",
        "ticker-collector": "coinspace ticker-collector upbit",
        "orderbook-storage-worker": "coinspace orderbook-storage-worker",
        "ticker-storage-worker": "coinspace ticker-storage-worker",
        "orderbook-aggregator": "coinspace orderbook-aggregator",
        "index-calculator": "coinspace index-calculator",
        "index-endpoint": "coinspace index-endpoint",
    },
}
EXAMPLES = {name: example for group in GROUPS.values() for name, example in group.items()}


class LazyGroup(click.Group):
    """A click group that imports a command's module only when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"coinspace.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        example = f"Example: {EXAMPLES[cmd_name]}"
        if example not in (command.epilog or ""):
            command.epilog = f"{example}\n\n{command.epilog or ''}".strip()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=2, cutoff=0.6)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command {printable(args[0], 60)!r}.{hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # click's own imports every command for its help
        found = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, examples in GROUPS.items():
            with formatter.section(f"{heading} ({next(iter(examples.values()))})"):
                formatter.write_dl([(name, COMMANDS[name][1]) for name in examples])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text("`coinspace COMMAND --help` shows the options and an example.")
        formatter.write_paragraph()
        formatter.write_text(
            "Completion with Tab: put this line into ~/.bashrc (for zsh into ~/.zshrc, with"
            " zsh_source):"
        )
        with formatter.indentation():
            formatter.write('eval "$(_COINSPACE_COMPLETE=bash_source coinspace)"\n')


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
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal that does not know a character shows `?`
        sys.stdout.reconfigure(errors="replace")
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
