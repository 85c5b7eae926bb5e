"""The page in a real Chromium, over the whole platform on simulated exchanges."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: `pip install --group test`")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.site import HOW_TO_GET_ONE, Platform, build_page, chromium, may_skip
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(may_skip(), reason=HOW_TO_GET_ONE),
    pytest.mark.timeout(900),
    # the driver's local sockets are closed by its garbage collection
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    build_page()
    started = Platform(tmp_path_factory.mktemp("page"))
    try:
        started.wait_ready()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def driver(platform: Platform) -> Iterator[webdriver.Chrome]:
    with chromium() as found:
        found.get(platform.url)
        yield found


def text(driver: webdriver.Chrome, name: str) -> str:
    return driver.find_element(By.ID, name).text


def connection(driver: webdriver.Chrome) -> str:
    return str(driver.find_element(By.ID, "connection").get_attribute("data-state"))


def venue(driver: webdriver.Chrome, name: str) -> dict[str, Any] | None:
    """Return state and share of a row of the venue table."""
    script = (
        "const row = [...document.querySelectorAll('#venues tbody tr')]"
        ".find((one) => one.dataset.venue === arguments[0]);"
        "return row && {state: row.dataset.state,"
        " share: row.querySelector('[data-share]').dataset.share}"
    )
    found: dict[str, Any] | None = driver.execute_script(script, name)
    return found


def _log(driver: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = driver.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def requests(driver: webdriver.Chrome) -> set[str]:
    """Return the hosts of all requests since the last call."""
    hosts = set()
    for entry in _log(driver, "performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = urlsplit(message["params"]["request"]["url"])
            if address.scheme not in ("data", "blob", "chrome"):
                hosts.add(address.netloc)
    return hosts


def test_everything_is_alive_and_nothing_comes_from_elsewhere(
    platform: Platform, driver: webdriver.Chrome
) -> None:
    wait_for(lambda: connection(driver) == "live")
    first = wait_for(lambda: text(driver, "value").replace("–", ""))
    wait_for(lambda: text(driver, "value") not in ("", "–", first))
    drawn = "return +(document.getElementById('depth').dataset.drawn || 0)"
    before = driver.execute_script(drawn)
    wait_for(lambda: driver.execute_script(drawn) > before + 3)
    inked = (
        "const c = document.getElementById('depth');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 60; return n / (d.length / 4)"
    )
    wait_for(lambda: driver.execute_script(inked) > 0.03)
    prices = "return document.querySelectorAll('#ladder .row.bid .price').length"
    wait_for(lambda: driver.execute_script(prices) >= 10)
    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "#chart canvas"))
    # history comes from the database
    wait_for(lambda: _stored(platform))
    candles = "return +(document.getElementById('chart').dataset.candles || 0)"
    driver.find_element(By.CSS_SELECTOR, "#ranges [data-value='5m']").click()
    driver.find_element(By.CSS_SELECTOR, "#intervals [data-value='1s']").click()
    wait_for(lambda: driver.execute_script(candles) > 0)
    wait_for(lambda: len(driver.find_elements(By.CSS_SELECTOR, "#pipeline .stage")) >= 10)
    driver.find_element(By.CSS_SELECTOR, "#views [data-value='premiums']").click()
    row = (
        "return [...document.querySelectorAll('#premium-list [data-asset=BTC] td')]"
        ".map((one) => one.textContent)"
    )
    # the premium, what a trade leaves, and the venues of it
    wait_for(
        lambda: re.search(
            r"[+-]?\d+\.\d\d%.*\w+ → \w+.*\d%.*₩[\d,]+", "|".join(driver.execute_script(row))
        ),
        shown=lambda: str(driver.execute_script(row)),
    )
    wait_for(lambda: connection(driver) == "live" and driver.title.startswith("BTC "))
    driver.find_element(By.CSS_SELECTOR, "#premium-list [data-asset='BTC'] .name").click()
    left = "return document.querySelectorAll('#trades tbody td.pos, #trades tbody td.neg').length"
    wait_for(lambda: driver.execute_script(left))
    assert requests(driver) == {urlsplit(platform.url).netloc}
    errors = [one for one in _log(driver, "browser") if one["level"] == "SEVERE"]
    assert errors == []


def _stored(platform: Platform) -> bool:
    candles = platform.get("/v1/indices/BTC/ohlc?interval=1s")["candles"]
    return any(one["close"] is not None for one in candles)


def test_both_languages_have_every_text(driver: webdriver.Chrome) -> None:
    module = driver.execute_script(
        "return document.querySelector('script[type=module]').src.replace('app.js', 'i18n.js')"
    )
    texts = driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "import(arguments[0]).then((module) => done(module.texts))",
        module,
    )
    english, korean = texts["en"], texts["ko"]
    assert set(english) == set(korean)
    for group in ("states", "reasons"):
        assert set(english[group]) == set(korean[group])


def test_keyboard_language_theme_and_asset(driver: webdriver.Chrome) -> None:
    page = driver.find_element(By.TAG_NAME, "body")
    theme = "return document.documentElement.dataset.theme"
    before = driver.execute_script(theme)
    page.send_keys("t")
    wait_for(lambda: driver.execute_script(theme) != before)
    page.send_keys("l")
    wait_for(lambda: "거래소" in text(driver, "venues-title"))
    page.send_keys("l")
    wait_for(lambda: text(driver, "venues-title") == "Venues")
    page.send_keys("2")
    wait_for(lambda: text(driver, "asset-name") == "ETH")
    page.send_keys("c")
    wait_for(lambda: chosen(driver, "style") == "candles")
    page.send_keys("1")
    wait_for(lambda: text(driver, "asset-name") == "BTC" and text(driver, "value") != "–")


def test_every_range_style_and_distance_draws(driver: webdriver.Chrome) -> None:
    drawn = "return +(document.getElementById('depth').dataset.drawn || 0)"
    for group in ("style", "ranges", "reaches"):
        names = [
            str(one.get_attribute("data-value"))
            for one in driver.find_elements(By.CSS_SELECTOR, f"#{group} button")
        ]
        assert len(names) >= 2, group
        for name in names:
            before = driver.execute_script(drawn)
            # the page creates the group again at each choice
            driver.find_element(By.CSS_SELECTOR, f"#{group} [data-value='{name}']").click()
            wait_for(partial(_is_chosen, driver, group, name))
            wait_for(partial(_more, driver, drawn, before))
    for button in driver.find_elements(By.CSS_SELECTOR, "#legend button"):
        for pressed in ("false", "true"):
            button.click()
            wait_for(partial(_has_state, button, pressed))
    driver.find_element(By.CSS_SELECTOR, "#ranges [data-value='5m']").click()
    rates = "return [...document.querySelectorAll('#pipeline .latency')].map((n) => n.textContent)"
    wait_for(lambda: len(driver.execute_script(rates)) >= 6)


def chosen(driver: webdriver.Chrome, group: str) -> str:
    """Return the pressed button of a group, which the page creates again at each choice."""
    script = "return document.querySelector(arguments[0])?.dataset.value"
    return str(driver.execute_script(script, f"#{group} [aria-pressed='true']"))


def _is_chosen(driver: webdriver.Chrome, group: str, name: str) -> bool:
    return chosen(driver, group) == name


def _has_state(button: WebElement, pressed: str) -> bool:
    return button.get_attribute("aria-pressed") == pressed


def _more(driver: webdriver.Chrome, script: str, before: int) -> bool:
    return bool(driver.execute_script(script) > before)


@pytest.mark.parametrize("width", [344, 768])
def test_small_screens_do_not_scroll_sideways(driver: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        wide = "return document.documentElement.scrollWidth - window.innerWidth"
        wait_for(lambda: driver.execute_script(wide) <= 0)
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_stalled_venue_turns_stale_and_loses_its_share(
    platform: Platform, driver: webdriver.Chrome
) -> None:
    name = "bithumb:BTC/KRW"
    wait_for(lambda: (venue(driver, name) or {}).get("state") == "synced")
    platform.signal("orderbook-collector-bithumb", signal.SIGSTOP)
    try:
        stalled = wait_for(
            lambda: (
                (found := venue(driver, name))
                and found["state"] in ("stale", "disconnected")
                and found["share"] == "0"
                and found
            )
        )
        assert stalled["share"] == "0"
        # the index continues without it
        before = text(driver, "value")
        wait_for(lambda: text(driver, "value") not in (before, "–"))
    finally:
        _continue(platform, "orderbook-collector-bithumb")
    wait_for(lambda: (venue(driver, name) or {}).get("state") == "synced")


def _continue(platform: Platform, name: str) -> None:
    # the supervisor may have ended the silent process
    with contextlib.suppress(ProcessLookupError):
        platform.signal(name, signal.SIGCONT)


def test_an_index_that_stops_is_shown_as_stale(
    platform: Platform, driver: webdriver.Chrome
) -> None:
    wait_for(lambda: connection(driver) == "live")
    platform.signal("index-calculator", signal.SIGSTOP)
    try:
        wait_for(
            lambda: (
                connection(driver) == "stale"
                and driver.find_element(By.ID, "notice").is_displayed()
                and "not been updated" in text(driver, "notice")
                and "old" in str(driver.find_element(By.ID, "hero").get_attribute("class"))
            ),
            "the stale index is shown",
        )
    finally:
        _continue(platform, "index-calculator")
    wait_for(lambda: connection(driver) == "live")
    wait_for(lambda: not driver.find_element(By.ID, "notice").is_displayed())


def test_a_stopped_aggregator_is_not_shown_as_live(
    platform: Platform, driver: webdriver.Chrome
) -> None:
    dimmed = "return document.getElementById('ladder').classList.contains('old')"
    wait_for(lambda: connection(driver) == "live" and not driver.execute_script(dimmed))
    platform.signal("orderbook-aggregator", signal.SIGSTOP)
    try:
        # the index goes on without a value, or stops too
        wait_for(lambda: connection(driver) in ("no_value", "stale"))
        wait_for(lambda: driver.execute_script(dimmed))
    finally:
        _continue(platform, "orderbook-aggregator")
    wait_for(lambda: connection(driver) == "live" and not driver.execute_script(dimmed))


def test_the_stream_recovers_when_the_endpoint_restarts(
    platform: Platform, driver: webdriver.Chrome
) -> None:
    before = platform.pid("index-endpoint")
    # the endpoint may be back before a question of this test is answered
    driver.execute_script(
        "new MutationObserver(() => {"
        " if (document.getElementById('connection').dataset.state === 'cut'"
        " && document.getElementById('notice').checkVisibility()) window.noticed = true;"
        "}).observe(document.body, {subtree: true, childList: true, attributes: true})"
    )
    platform.signal("index-endpoint", signal.SIGTERM)
    wait_for(lambda: driver.execute_script("return window.noticed"), "the cut is shown")
    wait_for(lambda: connection(driver) == "live" and platform.pid("index-endpoint") != before)
    last = text(driver, "value")
    wait_for(lambda: text(driver, "value") not in (last, "–"))
    wait_for(lambda: not driver.find_element(By.ID, "notice").is_displayed())
    hosts = requests(driver)
    assert hosts == {urlsplit(platform.url).netloc}
    # apart from the requests that met no server, nothing has failed so far
    errors = [one for one in _log(driver, "browser") if one["level"] == "SEVERE"]
    assert [one for one in errors if "net::ERR_" not in one["message"]] == []


def test_documentation_works_offline(platform: Platform, driver: webdriver.Chrome) -> None:
    requests(driver)
    driver.get(f"{platform.url}/docs")
    wait_for(lambda: len(driver.find_elements(By.CSS_SELECTOR, ".opblock")) > 10)
    assert requests(driver) == {urlsplit(platform.url).netloc}
