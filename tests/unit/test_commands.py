"""Commands with nothing to do report it: one line on stderr and an exit code other than 0."""

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import structlog
from click.shell_completion import BashComplete

from coinspace.cli import COMMANDS, GROUPS, coinspace, main
from coinspace.collector.tools.capture import CollectionHealth
from coinspace.errors import MarketError
from coinspace.market import Market, as_named
from coinspace.options import EXCHANGE, markets_by_exchange
from coinspace.query import SUBJECTS
from coinspace.recording.format import FeedWriter
from coinspace.simulator import faults
from coinspace.simulator.markets.engine import DEFAULT_MARKETS
from coinspace.simulator.simulated_feed import write_feeds
from tests import documents

# command line, exit code, part of the line; {0} is the folder with the files of `folder`
NOTHING_TO_DO = [
    ("restart", "expected a running `coinspace up`"),
    ("premium --watch --url http://127.0.0.1:9", "is an endpoint running there"),
    ("reload", "expected a running `coinspace up`"),
    ("alerts test", "alerts.targets: expected a target to send a test to, found none"),
    ("feed cut {0}/sim-upbit.feed.zst {0}/o.feed.zst --from 20 --to 10", "expected from before to"),
    ("feed cut {0}/sim-upbit.feed.zst {0}/o.feed.zst --from 3 --to 3", "expected from before to"),
    ("feed cut {0}/sim-upbit.feed.zst {0}/o.feed.zst --from 100", "found none"),
    ("feed cut {0}/sim-binance.feed.zst {0}/o.feed.zst --from 100", "found none"),
    ("feed cut {0}/sim-upbit.feed.zst {0}/o.feed.zst --symbol NOPE", "no frame of NOPE"),
    ("feed cut {0}/sim-upbit.feed.zst {0}/o.feed.zst --symbol BTC/KRW --symbol X", "frame of X"),
    ("feed cut {0}/sim-upbit.feed.zst {0}/o.feed.zst --kind nope", "no frame of nope"),
    ("feed cut {0}/sim-upbit.feed.zst {0}/o.feed.zst --from nan", "expected seconds"),
    ("feed cut {0}/sim-upbit.feed.zst {0}/o.feed.zst --to 99999999999999999999", "expected sec"),
    ("feed cut {0}/sim-upbit.feed.zst {0}/sim-upbit.feed.zst", "--force overwrites"),
    ("feed merge {0}/sim-upbit.feed.zst {0}/sim-upbit.feed.zst {0}/o.feed.zst", "each feed once"),
    ("feed convert {0}/sim-upbit.feed.zst {0}/o.txt", "to end with .parquet"),
    ("feed verify {0}/empty.feed.zst", ""),
    (
        "books {0}/sim-upbit.feed.zst --check --quiet",
        "expected bookTicker events in the feeds, found none",
    ),
    ("books {0}/refused.feed.zst --check", "expected order book updates in the feeds, found none"),
    ("books {0}/empty.feed.zst", "expected order book updates in the feeds, found none"),
    ("books {0}/sim-binance.feed.zst --quiet --markets DOGE/USDT", "no Binance frame of DOGE/USDT"),
    ("decode upbit {0}/empty.feed.zst", "found no frame"),
    ("decode upbit {0}/sim-binance.feed.zst", "expected a feed of upbit"),
    ("archive {0}/a", "no private QuestDB runs"),
    ("archive {0}/a --older 36h", "expected whole days such as 2d"),
    ("archive {0}/a --table candles", "expected one of orderbook, ticker"),
    ("compute-index {0}/empty.feed.zst", "no tick"),
    ("compute-index {0}/refused.feed.zst --hash", "no tick"),
    ("compute-index --snapshots /dev/null", "no tick"),
    ("simulate --record {0}/sim --duration 1", "--force overwrites"),
    ("simulate --record {0}/one --exchange upbit --duration 1", "--force overwrites"),
    ("simulate --record {0}/x --duration 1 --fault mute:upbit", "they need a server"),
    ("simulate --record {0}/x", "expected --duration"),
    ("simulate --compress 2", "expected --scenario"),
    ("simulate --start 5", "expected --record"),
    ("simulate --market XYZ", "was 'XYZ'"),
    ("simulate --market */KRW", "was */KRW"),
    ("simulate --exchange upbit --market BTC/KRW --market BTC/USDT", "was BTC/USDT"),
    ("replay {0}/sim-upbit.feed.zst --skip 1000", "found none"),
    ("replay {0}/empty.feed.zst", "found none"),
    ("bench --stage parse --feed {0}/refused.feed.zst", "2 of 2 frames"),
    ("profile parse --feed {0}/refused.feed.zst", "2 of 2 frames"),
    ("bench --stage book --feed {0}/empty.feed.zst", "expected order books"),
    ("journal ls", "expected a journal"),
    ("journal cat", "expected a journal"),
    ("journal verify", "expected a journal"),
    ("journal ls nobody", "expected a journal"),
    ("top --once --interval 0.01", "no process runs"),
    ("backup {0}", "expected no such file or folder, found one"),
    ("backup {0}/none", "expected data, found none"),
    ("restore {0}/none", "expected a backup with backup.json"),
    ("verify-index --feeds {0}/none --from 1 --to 2", "found none"),
    ("verify-index --feeds {0} --from 1 --to 2 --asset DOGE", "--asset: expected some of BTC"),
    ("verify-index --feeds {0} --from 2 --to 1", "expected from before to"),
    ("reconcile --from 2 --to 1", "expected from before to"),
    ("record --exchange upbit --market BTC/USDT --duration 1", "was BTC/USDT"),
    ("query nothing-like-this", None),
    ("verify-chain --no-check", None),
    ("index-reset-clock --operator x", None),
    ("verify-index --feeds {0} --from 1 --to 2 --operator x", None),
    # a file that is not there: the same everywhere
    ("feed info {0}/none", "No such file"),
    ("feed cut {0}/none {0}/o.feed.zst", "No such file"),
    ("feed merge {0}/none {0}/o.feed.zst", "No such file"),
    ("feed convert {0}/none {0}/o.parquet", "No such file"),
    ("feed convert {0}/none.parquet {0}/o.feed.zst", "none.parquet"),
    ("books {0}/none", "No such file"),
    ("decode upbit {0}/none", "No such file"),
    ("replay {0}/none", "No such file"),
    ("compute-index {0}/none", "No such file"),
    ("compute-index --snapshots {0}/none", "No such file"),
    ("compute-index --params {0}/none {0}/sim-upbit.feed.zst", "No such file"),
    ("bench --feed {0}/none", "No such file"),
    ("bench compare {0}/none {0}/none", "No such file"),
    ("profile parse --feed {0}/none", "No such file"),
    ("status --config {0}/none", "expected a file"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("commands")
    list(write_feeds(made / "sim.feed.zst", 4, DEFAULT_MARKETS, duration_s=3))
    list(write_feeds(made / "one.feed.zst", 4, {"upbit": ["BTC/KRW"]}, duration_s=1))
    with FeedWriter(made / "empty.feed.zst", {"exchange": "upbit"}):
        pass
    with FeedWriter(made / "refused.feed.zst", {"exchange": "bithumb"}) as writer:
        writer.write(1, "<", "", b'{"old":1}')
        writer.write(2, "<", "", b'{"old":2}')
    return made


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    # commands log to the stderr that a test has replaced
    structlog.reset_defaults()


def run(line: list[str], capture: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capture.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(line)
    return int(ended.value.code or 0), capture.readouterr().err


@pytest.mark.parametrize(("line", "said"), NOTHING_TO_DO, ids=[one for one, _ in NOTHING_TO_DO])
def test_nothing_to_do_is_an_error_of_one_line(
    line: str,
    said: str | None,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    code, err = run(line.format(folder).split(), capfd)
    # 2: the command line itself is wrong
    assert code == (2 if said is None else 1), err
    assert "Traceback" not in err
    assert not (folder / "o.feed.zst").exists()
    if said:
        (last,) = [one for one in err.splitlines() if one.startswith("coinspace: ")]
        assert said in last
        assert "COINSPACE_DEBUG" not in last


def commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)


NUMBERS = [
    (names, command, option)
    for names, command in commands(coinspace)
    for option in command.params
    if isinstance(option, click.Option)
    and isinstance(
        option.type,
        click.types.IntParamType | click.types.FloatParamType | click.IntRange | click.FloatRange,
    )
]


@pytest.mark.parametrize(
    ("names", "command", "option"),
    NUMBERS,
    ids=[f"{' '.join(names)} {option.opts[0]}" for names, _, option in NUMBERS],
)
def test_no_number_of_an_option_ends_in_a_traceback(
    names: tuple[str, ...],
    command: click.Command,
    option: click.Option,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    arguments = [
        "upbit" if isinstance(one.type, click.Choice) and "upbit" in one.type.choices
        else one.type.choices[0] if isinstance(one.type, click.Choice) else str(tmp_path / "none")
        for one in command.params
        if isinstance(one, click.Argument) and one.required
    ]  # fmt: skip
    bounded = isinstance(option.type, click.IntRange | click.FloatRange)
    # a number without bounds accepts any value, and then the command runs
    for value in ("nan", "x", "", *(("-1", "1e400") if bounded else ())):
        code, err = run([*names, *arguments, option.opts[0], value], capfd)
        assert code in (1, 2), (value, err)
        assert "Traceback" not in err


def test_every_command_is_tried() -> None:
    tried = {line.split()[0] for line, _ in NOTHING_TO_DO} | {names[0] for names, _, _ in NUMBERS}
    # processes, which run until stopped, and settings have tests of their own
    processes = {name for name in COMMANDS if name.endswith(("-worker", "-collector"))}
    others = {"orderbook-aggregator", "index-calculator", "index-endpoint", "alerter"}
    others |= {"assets", "config", "deploy", "questdb", "keys", "doctor", "markets"}
    assert set(COMMANDS) - tried == (processes | others) - tried


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_is_one_line_unless_asked_for_more(
    debug: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ExceptionGroup("many", [RuntimeError("\x1b[31mred\nsecond")])

    monkeypatch.setattr(coinspace, "main", fail)
    monkeypatch.setenv("COINSPACE_DEBUG", "1" if debug else "")
    code, err = run([], capfd)
    *before, last = err.splitlines()
    assert code == 1
    assert last.startswith("coinspace: RuntimeError: \\x1b[31mred\\x0asecond")
    assert any("Traceback" in line for line in before) is debug
    assert "\x1b" not in err


def test_a_book_kind_of_binance_is_cut_by_its_usual_name(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, target = folder / "sim-binance.feed.zst", tmp_path / "o.feed.zst"
    line = ["feed", "cut", str(source), str(target), "--kind", "orderbook", "--symbol", "BTC/USDT"]
    assert run(line, capfd)[0] == 0
    assert run(["books", "--quiet", str(target)], capfd)[0] == 0


def test_a_failed_cut_keeps_the_earlier_file(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "o.feed.zst"
    target.write_bytes(b"mine")
    line = ["feed", "cut", str(folder / "sim-upbit.feed.zst"), str(target), "--force"]
    assert run([*line, "--symbol", "NOPE"], capfd)[0] == 1
    assert target.read_bytes() == b"mine"
    assert [*tmp_path.iterdir()] == [target]
    assert run(line, capfd)[0] == 0


def test_an_incomplete_feed_is_reported(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.feed.zst"
    path.write_bytes((folder / "sim-upbit.feed.zst").read_bytes()[:-30])
    for line in ("books --quiet", "decode upbit", "feed info"):
        code, err = run([*line.split(), str(path)], capfd)
        assert code == 0
        assert "the end" in err
        assert "is cut" in err


def test_names_on_the_command_line_are_taken_in_any_case_of_letters() -> None:
    given = ("btc/krw", "Binance:eth/usdt", "*/krw")
    wanted = ("BTC/KRW", "binance:ETH/USDT", "*/KRW")
    assert markets_by_exchange((), given) == markets_by_exchange((), wanted)
    assert faults.parse("clock:Binance:by=1s").exchange == "binance"
    assert EXCHANGE.convert("Binance", None, None) == "binance"
    with pytest.raises(click.BadParameter, match="'upbit', 'bithumb', 'binance'"):
        EXCHANGE.convert("nowhere", None, None)
    # letters whose upper-case form is another letter keep their case, and are refused
    assert as_named("\u017fol") == "\u017fOL"
    with pytest.raises(MarketError):
        Market.parse("\u017fOL/KRW")


def test_a_command_that_is_not_there_is_corrected(capfd: pytest.CaptureFixture[str]) -> None:
    code, err = run(["statsu"], capfd)
    assert code == 2
    assert "No such command 'statsu'. Did you mean status or restart?" in err
    assert "Did you mean" not in run(["xyzzyx"], capfd)[1]


def test_the_help_groups_every_command_with_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    # each in one group
    assert [name for group in GROUPS.values() for name in group] == list(COMMANDS)
    run(["--help"], capfd)
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capfd.readouterr().out
    for heading in GROUPS:
        assert heading in text
    assert "_COINSPACE_COMPLETE=bash_source" in text
    for name, command in COMMANDS.items():
        check_example([name], command.example, [] if command.parts else [name], capfd)
        for part, words in command.parts.items():
            example = f"coinspace {name} {words}"
            check_example([name, part], example, [name] if name == "query" else [name, part], capfd)


def check_example(
    names: list[str], example: str, helped: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Check that an example fits its command, and that the help of `helped` shows it."""
    words = shlex.split(example)
    assert words[: 1 + len(names)] == ["coinspace", *names]
    assert documents.wrong_words(words) == [], example
    if helped:
        with pytest.raises(SystemExit):
            main([*helped, "--help"])
        text = capfd.readouterr().out
        # examples in a list have a line each
        assert example in (text if helped == ["query"] else " ".join(text.split()))


def test_every_subcommand_has_an_example() -> None:
    context = click.Context(coinspace)
    for name, known in COMMANDS.items():
        command = coinspace.get_command(context, name)
        expected = set(command.commands) if isinstance(command, click.Group) else set()
        assert set(known.parts) == (set(SUBJECTS) if name == "query" else expected), name


@pytest.mark.parametrize(
    ("words", "near"),
    [(["questdb", "statsu"], "'status'"), (["query", "premuims"], "premium")],
)
def test_a_subcommand_that_is_not_there_is_corrected(
    words: list[str], near: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, err = run(words, capfd)
    assert code == 2
    assert near in err.partition("id you mean")[2]


PREMIUM = ["premium-stats", "premium-values", "premium-ohlc"]


@pytest.mark.parametrize(
    ("words", "begin", "found"),
    [
        (["questdb"], "st", ["start", "status", "stop"]),
        (["query"], "premium", ["premium", "premiums", *PREMIUM]),
        (["query", "index", "BTC"], "--form", ["--format"]),
    ],
)
def test_subcommands_and_options_are_completed(
    words: list[str], begin: str, found: list[str]
) -> None:
    shell = BashComplete(coinspace, {}, "coinspace", "_COINSPACE_COMPLETE")
    assert [one.value for one in shell.get_completions(words, begin)] == found


def test_completion_imports_no_command() -> None:
    code = (
        "import sys; from coinspace.cli import coinspace\n"
        "context = __import__('click').Context(coinspace)\n"
        "print([one.value for one in coinspace.shell_complete(context, 'verify')])\n"
        "print('coinspace.config' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["['verify-index', 'verify-chain']", "False"]


def test_status_imports_no_library_of_other_commands(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from coinspace.cli import main\n"
        "try: main(['status', '--json'])\n"
        "except SystemExit: pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )

    def status() -> tuple[str, set[str]]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "COINSPACE_DATA": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout, set(done.stderr.split())

    heavy = {"aiohttp", "asyncio", "blacksheep", "numpy", "psycopg", "questdb", "rich"}
    heavy |= {"structlog", "uvloop", "zmq", "pyarrow", "pandas"}
    (tmp_path / "run").mkdir()
    first, loaded = status()
    assert "down" in first
    assert loaded & heavy == set()
    # the second one knows what it needs of the settings
    second, loaded = status()
    assert second == first
    assert loaded & (heavy | {"pydantic"}) == set()


async def test_a_recording_says_which_connection_misses_data() -> None:
    with structlog.testing.capture_logs() as logs:
        watch = CollectionHealth("upbit-orderbook", asyncio.Event())
        watch.degraded("1 of 1 not synced: BTC/KRW")
        watch.ready()
    assert [(one["event"], one["connection"]) for one in logs] == [
        ("data missing", "upbit-orderbook"),
        ("data complete", "upbit-orderbook"),
    ]
