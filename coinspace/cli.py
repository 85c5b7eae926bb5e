"""The `coinspace` command: a table of lazily imported subcommands, so that `--help` stays fast."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from coinspace import __version__
from coinspace.errors import CoinSpaceError
from coinspace.text import printable, printable_lines

# characters of an error's line: an error that lists many names exceeds the limit of a table cell
ERROR_LIMIT = 4000
DEBUG = "COINSPACE_DEBUG"


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        module: defines it under its name.
        help: one line.
        example: of its use.
        parts: of a group, subcommand -> example; of `query`, what is asked for -> example. Each
            begins with the command's name, which is left out here.
    """

    module: str
    help: str
    example: str
    parts: Mapping[str, str] = MappingProxyType({})


# heading of `--help` -> its commands; each heading shows the example of its first command
GROUPS: dict[str, dict[str, Command]] = {
    "Run and watch": {
        "up": Command("supervisor", "Run everything, supervised.", "coinspace up --simulate"),
        "restart": Command(
            "restart",
            "Replace running processes without losing data.",
            "coinspace restart collectors",
        ),
        "reload": Command(
            "restart", "Apply changed markets, assets and alerts.", "coinspace reload"
        ),
        "status": Command(
            "observe.commands", "Show each process's state.", "coinspace status --json"
        ),
        "top": Command(
            "observe.commands",
            "Watch rates and latencies of all processes.",
            "coinspace top --once",
        ),
        "alerts": Command(
            "alerts.commands",
            "List alerts, and send a test to each target.",
            "coinspace alerts test",
            {"list": "list --json", "test": "test --target ops"},
        ),
        "doctor": Command(
            "observe.commands", "Check this host and list what is missing.", "coinspace doctor"
        ),
    },
    "Read data": {
        "query": Command(
            "query",
            "Print indices, books and history.",
            "coinspace query ohlc BTC --interval 1m --output btc.parquet",
            {
                "indices": "indices",
                "index": "index BTC",
                "values": "values BTC --start 2026-01-31T09:00:00Z --output values.parquet",
                "ohlc": "ohlc BTC --interval 5m --limit 12",
                "explain": "explain BTC --ts 2026-01-31T09:00:00Z",
                "premium": "premium BTC --size 1",
                "premiums": "premiums --min 0.01 --sort asset",
                "premium-stats": "premium-stats BTC",
                "premium-values": "premium-values BTC --limit 20",
                "premium-ohlc": "premium-ohlc BTC --interval 1h --basis fiat",
                "usd-krw": "usd-krw",
                "orderbook": "orderbook upbit/BTC/KRW --levels 15",
                "books": "books upbit/BTC/KRW --start 2026-01-31T09:00:00Z --output books.parquet",
                "tickers": "tickers --exchange upbit",
                "trades": "trades --exchange upbit --market BTC/KRW --limit 20",
                "assets": "assets",
                "markets": "markets --exchange upbit --quote KRW",
                "venues": "venues",
                "gaps": "gaps --start 2026-01-31T09:00:00Z --format csv",
                "methodology": "methodology",
                "pipeline": "pipeline",
                "sql": 'sql "SHOW TABLES"',
            },
        ),
        "premium": Command(
            "premium",
            "Print or watch the kimchi premium of all assets.",
            "coinspace premium --watch",
        ),
        "keys": Command(
            "endpoint.commands",
            "Manage API keys and the keys of several hosts.",
            "coinspace keys new alice",
            {
                "new": "new alice --role operator",
                "list": "list",
                "revoke": "revoke 1a2b3c4d",
                "curve": "curve",
            },
        ),
    },
    "Set up": {
        "config": Command(
            "config_file",
            "Write, show or check the configuration.",
            "coinspace config init",
            {"init": "init --output coinspace.toml", "show": "show", "check": "check"},
        ),
        "assets": Command(
            "shared_assets", "List the assets that have an index.", "coinspace assets --update"
        ),
        "deploy": Command(
            "deploy",
            "Write systemd units for a host.",
            "coinspace deploy systemd --output units",
            {"systemd": "systemd --output units --user coinspace"},
        ),
        "questdb": Command(
            "storage.commands",
            "Run the private QuestDB server.",
            "coinspace questdb status",
            {
                "start": "start",
                "stop": "stop",
                "status": "status --json",
                "resume": "resume",
                "console": "console --open",
            },
        ),
        "cluster": Command(
            "bus.nats.commands",
            "Run private NATS servers for the bus, and show those in use.",
            "coinspace cluster up --nodes 3",
            {"up": "up --nodes 3", "url": "url", "status": "status --json", "apply": "apply"},
        ),
        "backup": Command(
            "storage.backup",
            "Copy a data folder while the platform runs.",
            "coinspace backup /backup/today",
        ),
        "archive": Command(
            "storage.archive",
            "Write closed days of the database as Parquet files.",
            "coinspace archive /archive --drop 7d",
        ),
        "restore": Command(
            "storage.backup",
            "Copy a backup into an empty data folder.",
            "coinspace restore /backup/today",
        ),
        "journal": Command(
            "bus.commands",
            "List, print and verify journals.",
            "coinspace journal ls",
            {
                "ls": "ls orderbook-collector-upbit",
                "cat": "cat orderbook-collector-upbit --limit 5 --json",
                "verify": "verify",
            },
        ),
    },
    "Recordings": {
        "record": Command(
            "collector.commands",
            "Record raw frames of exchanges.",
            "coinspace record --market BTC/KRW --duration 60",
        ),
        "simulate": Command(
            "simulator.commands",
            "Serve or record simulated markets.",
            "coinspace simulate --record day --duration 60",
        ),
        "replay": Command(
            "simulator.commands",
            "Serve recordings as the exchange would.",
            "coinspace replay day-upbit.feed.zst",
        ),
        "feed": Command(
            "recording.commands",
            "Inspect, cut, merge and convert recordings.",
            "coinspace feed info day-upbit.feed.zst",
            {
                "info": "info day-*.feed.zst",
                "verify": "verify day-*.feed.zst",
                "cut": "cut day-upbit.feed.zst part.feed.zst --from 60 --to 120",
                "merge": "merge archive/upbit-*.feed.zst upbit.feed.zst",
                "convert": "convert day-upbit.feed.zst day.parquet",
            },
        ),
    },
    "Exchanges and raw frames": {
        "markets": Command(
            "collector.commands", "List what an exchange offers.", "coinspace markets upbit"
        ),
        "probe": Command(
            "collector.commands",
            "Check the facts that the code relies on.",
            "coinspace probe upbit",
        ),
        "decode": Command(
            "recording.decode",
            "Decode raw frames into JSON lines.",
            "coinspace decode upbit day-upbit.feed.zst",
        ),
        "books": Command(
            "collector.commands",
            "Print a feed's top of book per update.",
            "coinspace books day-binance.feed.zst --check",
        ),
    },
    "Recompute and prove": {
        "compute-index": Command(
            "recompute.commands",
            "Compute the index offline.",
            "coinspace compute-index day-*.feed.zst --output index.parquet",
        ),
        "verify-index": Command(
            "recompute.commands",
            "Recompute stored records.",
            "coinspace verify-index --feeds data/feeds"
            " --from 2026-01-31T09:00:00Z --to 2026-01-31T10:00:00Z",
        ),
        "verify-chain": Command(
            "index.commands", "Check the daily hash chain.", "coinspace verify-chain"
        ),
        "index-reset-clock": Command(
            "index.commands",
            "Show stored ticks with a future time, or declare them void.",
            "coinspace index-reset-clock",
        ),
        "reconcile": Command(
            "storage.commands", "Check that every message is stored.", "coinspace reconcile"
        ),
    },
    "Measure": {
        "bench": Command(
            "bench.commands",
            "Measure the stages on this machine.",
            "coinspace bench --stage parse",
            {"compare": "compare before.json after.json"},
        ),
        "profile": Command(
            "bench.profile", "Profile one stage on a feed.", "coinspace profile parse"
        ),
    },
    "Single processes, which `up` starts": {
        "orderbook-collector": Command(
            "collector.worker",
            "Publish one exchange's order books on the bus.",
            "coinspace orderbook-collector upbit",
        ),
        "ticker-collector": Command(
            "collector.worker",
            "Publish one exchange's tickers and trades on the bus.",
            "coinspace ticker-collector upbit",
        ),
        "fx-collector": Command(
            "rates.worker", "Publish quotations of USD/KRW on the bus.", "coinspace fx-collector"
        ),
        "orderbook-storage-worker": Command(
            "storage.worker", "Store order books in QuestDB.", "coinspace orderbook-storage-worker"
        ),
        "ticker-storage-worker": Command(
            "storage.worker",
            "Store tickers and trades in QuestDB.",
            "coinspace ticker-storage-worker",
        ),
        "orderbook-aggregator": Command(
            "aggregator.worker",
            "Sum the books of all exchanges into one per asset.",
            "coinspace orderbook-aggregator",
        ),
        "index-calculator": Command(
            "index.worker",
            "Compute and store the index from the summed books.",
            "coinspace index-calculator",
        ),
        "index-endpoint": Command(
            "endpoint.worker",
            "Serve the HTTP API, streams and the dashboard.",
            "coinspace index-endpoint",
        ),
        "alerter": Command(
            "alerts.worker", "Watch the rules and send alerts.", "coinspace alerter"
        ),
    },
}
COMMANDS = {name: one for group in GROUPS.values() for name, one in group.items()}


class LazyGroup(click.Group):
    """A click group that imports a command's module only when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"coinspace.{COMMANDS[cmd_name].module}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        known = COMMANDS[cmd_name]
        if isinstance(command, click.Group):
            _explain(command, f"Example: {known.example}")
            for name, words in known.parts.items():
                _explain(command.commands[name], f"Example: coinspace {cmd_name} {words}")
        elif known.parts:
            lines = (f"  coinspace {cmd_name} {words}" for words in known.parts.values())
            _explain(command, "\n".join(("\b\nExamples:", *lines)))
        else:
            _explain(command, f"Example: {known.example}")
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
            CompletionItem(name, help=one.help)
            for name, one in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, group in GROUPS.items():
            with formatter.section(f"{heading} ({next(iter(group.values())).example})"):
                formatter.write_dl([(name, one.help) for name, one in group.items()])

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


def _explain(command: click.Command, text: str) -> None:
    """Put examples below the options of a command's help."""
    if text not in (command.epilog or ""):
        command.epilog = f"{text}\n\n{command.epilog or ''}".strip("\n")


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
