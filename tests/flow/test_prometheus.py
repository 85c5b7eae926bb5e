"""Dashboard and alerts against a real Prometheus that scrapes a running platform."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.flow.platform import Platform, platform
from tests.waiting import free_port, wait_for

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
RULES = DEPLOY / "alerts.yml"
DASHBOARD = orjson.loads((DEPLOY / "grafana.json").read_bytes())
TOOLS = ("prometheus", "promtool")
METRIC = re.compile(r"\b(?:coinspace|process)_[a-z0-9_]+\b")


@pytest.fixture(autouse=True)
def _installed() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and os.environ.get("PROMETHEUS_TESTS") != "required":
        pytest.skip(f"{missing[0]} is not installed: apt-get install prometheus")
    assert not missing, f"PROMETHEUS_TESTS=required: {missing[0]} is not installed"


def promtool(*arguments: str, given: bytes = b"") -> str:
    """Return what promtool complains about."""
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, check=False)
    text = (done.stdout + done.stderr).decode()
    return text if done.returncode else ""


def expressions() -> list[tuple[str, str]]:
    """Return (panel, query) of the dashboard, for all processes."""
    return [
        (
            panel["title"],
            target["expr"].replace("$process", ".*").replace("$__rate_interval", "30s"),
        )
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ]


class Prometheus:
    """A running Prometheus and queries to it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **parameters: str) -> dict[str, Any]:
        url = f"{self.url}/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                found = orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503:
                pytest.fail(f"{parameters}: {error.read().decode()}")
            # it is still starting
            return {}
        except OSError:
            return {}
        data: dict[str, Any] = found["data"]
        return data

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return the result of a query. Fails the test when the query is wrong."""
        return list(self.get("query", query=text).get("result", ()))


@contextmanager
def prometheus(folder: Path, data: Path) -> Iterator[Prometheus]:
    """Run Prometheus as deploy/ configures it, on a data folder and faster."""
    config = (DEPLOY / "prometheus.yml").read_text()
    for shipped, here in (
        ("/var/lib/coinspace", str(data)),
        ("alerts.yml", str(RULES)),
        ("refresh_interval: 1m", "refresh_interval: 1s"),
        ("interval: 5s", "interval: 1s"),
    ):
        assert shipped in config
        config = config.replace(shipped, here)
    path, port = folder / "prometheus.yml", free_port()
    path.write_text(config)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(60)


def text_of(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        body: bytes = answer.read()
    return body.decode()


def types(text: str) -> set[str]:
    return set(re.findall(r"^# TYPE .*$", text, re.MULTILINE))


def targets(running: Platform) -> dict[str, str]:
    """Return process -> address of its metrics."""
    return {
        path.stem: orjson.loads(path.read_bytes())[0]["targets"][0]
        for path in (running.data / "run" / "targets").glob("*.json")
    }


def test_rules_and_configuration_are_valid() -> None:
    assert promtool("check", "rules", str(RULES)) == ""
    assert promtool("check", "config", str(DEPLOY / "prometheus.yml")) == ""


# alert: (a series that raises it, with one value a minute; the time at which it is raised)
RAISED = {
    "ProcessDown": ('up{job="coinspace",instance="a"}', "1 0x9", "3m"),
    "ProcessDegraded": ('coinspace_state{process="a",state="ready"}', "1 0x9", "8m"),
    "IndexWithoutValue": ('coinspace_index_null_age_seconds{asset="BTC"}', "0 60", "1m"),
    "JournalStopped": ('coinspace_journal_stopped{process="a"}', "0 1x9", "3m"),
    "MessagesLost": ('coinspace_messages_lost_total{process="a"}', "0 0 5x9", "3m"),
    "HostClockStepped": ('coinspace_host_clock_steps_total{process="a"}', "0 0 1x9", "3m"),
    "StorageLate": (
        'coinspace_latency_seconds_bucket{process="a",leg="published_to_stored",le="+Inf"}',
        "0+100x20",
        "10m",
    ),
}


@pytest.mark.parametrize("alert", RAISED)
def test_alerts_are_raised(alert: str, tmp_path: Path) -> None:
    series, values, at = RAISED[alert]
    lower = series.replace("+Inf", "30")
    more = f"\n      - series: '{lower}'\n        values: 0x20" if lower != series else ""
    path = tmp_path / "test.yml"
    path.write_text(
        f"""rule_files: [{RULES}]
tests:
  - interval: 1m
    input_series:
      - series: '{series}'
        values: {values}{more}
    promql_expr_test:
      - expr: count(ALERTS{{alertname="{alert}", alertstate="firing"}})
        eval_time: {at}
        exp_samples: [{{value: 1}}]
      - expr: count(ALERTS{{alertstate="firing"}})
        eval_time: 0m
"""
    )
    assert promtool("test", "rules", str(path)) == ""


@pytest.mark.timeout(600)
def test_every_panel_and_alert_has_its_metrics(tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    # the alerter runs where there is a rule
    (tmp_path / "coinspace.toml").write_text('[alerts.rules.platform]\nkind = "process"\n')
    with platform(tmp_path) as running, prometheus(folder, tmp_path) as server:
        wait_for(
            lambda: len(ready(server)) == 14, "all processes and the database ready", limit_s=240
        )
        found = targets(running)
        wait_for(lambda: up(server) == found.keys(), "all targets up")
        # panels: each query answers, with data
        for panel, query in expressions():
            wait_for(partial(server.query, query), f"data of panel {panel!r}: {query}")
        # alerts: each is evaluated without an error, on metrics that exist
        for rule in wait_for(lambda: evaluated(server), "evaluated rules"):
            assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]
            for name in METRIC.findall(rule["query"]):
                wait_for(partial(server.query, name), f"{name} of {rule['name']}")
        # every counter is declared
        assert server.query("coinspace_metrics_left_out > 0") == []
        # the endpoint aggregates the same names and types; its answer may be a second old
        for process, address in found.items():
            own = text_of(address)
            assert promtool("check", "metrics", given=own.encode()) == ""
            wait_for(partial(aggregated, running, types(own)), f"types of {process}")
        assert promtool("check", "metrics", given=whole(running).encode()) == ""
        assert running.stop() == 0
        # Prometheus must not report what was stopped
        assert not targets(running).keys() & stopped(running)


def up(server: Prometheus) -> set[str]:
    return {one["metric"]["instance"] for one in server.query("up == 1")}


def ready(server: Prometheus) -> set[str]:
    return {one["metric"]["process"] for one in server.query('coinspace_state{state="ready"} == 1')}


def whole(running: Platform) -> str:
    return text_of(f"127.0.0.1:{running.port}")


def aggregated(running: Platform, own: set[str]) -> bool:
    return own <= types(whole(running))


def stopped(running: Platform) -> set[str]:
    """Return the processes that ended as they should."""
    files = (running.data / "run").glob("*.json")
    return {path.stem for path in files if orjson.loads(path.read_bytes())["state"] == "stopped"}


def evaluated(server: Prometheus) -> list[dict[str, Any]]:
    """Return all rules once Prometheus has evaluated them."""
    groups = server.get("rules").get("groups", ())
    rules = [rule for group in groups for rule in group["rules"]]
    return [] if any(rule["health"] == "unknown" for rule in rules) else rules
