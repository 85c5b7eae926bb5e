"""The page of a platform with markets of its own: tiny prices, renamed coins, odd addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: `pip install --group test`")

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.browser.site import HOW_TO_GET_ONE, Platform, build_page, chromium, may_skip
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(may_skip(), reason=HOW_TO_GET_ONE),
    pytest.mark.timeout(900),
    # the driver's local sockets are closed by its garbage collection
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
# of 0.00000043: six significant digits
TINY = re.compile(r"0\.000000[1-9]\d{5}")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    build_page()
    started = Platform(
        tmp_path_factory.mktemp("page"),
        INDEX__ASSETS="btc, btt, tokamak",
        # a tick of BTT is two percent of its price
        INDEX__OVERRIDES__BTT__MAX_SPREAD="0.3",
        EXCHANGES__UPBIT__MARKETS="*/KRW",
        EXCHANGES__BITHUMB__MARKETS="BTC/KRW,BTT/KRW,USDT/KRW",
        EXCHANGES__BINANCE__MARKETS="BTC/USDT BTT/USDT BTC/USDC TOKAMAK/USDT",
    )
    try:
        started.wait_ready("BTC", "BTT")
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def driver(platform: Platform) -> Iterator[webdriver.Chrome]:
    with chromium() as found:
        found.get(f"{platform.url}/#BTT")
        yield found


def text(driver: webdriver.Chrome, name: str) -> str:
    return driver.find_element(By.ID, name).text


def go(driver: webdriver.Chrome, name: str) -> None:
    driver.execute_script("location.hash = arguments[0]", name)


def address(driver: webdriver.Chrome) -> str:
    return str(driver.execute_script("return location.hash"))


def test_tiny_prices_have_their_digits_everywhere(
    platform: Platform, driver: webdriver.Chrome
) -> None:
    wait_for(lambda: TINY.fullmatch(text(driver, "value")), shown=lambda: text(driver, "value"))
    wait_for(lambda: TINY.match(driver.title), shown=lambda: driver.title)
    wait_for(lambda: text(driver, "assets").count("0.000000") == 1)
    shown = (
        "return [...document.querySelectorAll('#ladder .row .price')]"
        ".filter((one) => one.parentNode.style.visibility === 'visible')"
        ".map((one) => one.textContent)"
    )
    wait_for(lambda: len(driver.execute_script(shown)) >= 10)
    prices: list[str] = driver.execute_script(shown)
    assert len(set(prices)) == len(prices)
    assert all(re.fullmatch(r"0\.00000\d{7,8}", one) for one in prices), prices
    wait_for(lambda: "₩0.000" in text(driver, "facts"))


def test_answers_and_history_have_the_digits_of_the_live_value(platform: Platform) -> None:
    live = platform.get("/v1/indices/BTT")
    assert re.fullmatch(r"0\.000000[1-9]\d{3,7}", live["value"])

    def stored() -> dict[str, Any] | None:
        start = live["ts"]
        page = platform.get(f"/v1/indices/BTT/values?start={start}&end={start + 1}")
        return page["values"][0] if page["values"] else None

    row = wait_for(stored)
    assert row["value"] == live["value"]
    assert (row["kr"], row["gl"]) == (live["kr"]["value"], live["gl"]["value"])
    assert (row["premium"], row["fx"]) == (live["premium"]["coin"], live["fx"])
    candles = platform.get("/v1/indices/BTT/ohlc?interval=1s")["candles"]
    assert all(float(one["low"]) > 0 for one in candles if one["low"] is not None)


def test_an_address_in_lower_or_upper_case_is_followed(driver: webdriver.Chrome) -> None:
    go(driver, "#btc")
    wait_for(lambda: text(driver, "asset-name") == "BTC")
    wait_for(lambda: address(driver) == "#BTC")
    driver.back()
    wait_for(lambda: text(driver, "asset-name") == "BTT")


def test_an_unknown_asset_is_named_and_the_page_stays(
    platform: Platform, driver: webdriver.Chrome
) -> None:
    driver.get(f"{platform.url}/#BTT")
    wait_for(lambda: text(driver, "asset-name") == "BTT")
    for name in ("DOGE", "nothing", "%", "B%54", "<b>x</b>"):
        go(driver, f"#{name}")
        wait_for(lambda: "no index of" in text(driver, "notice"))
        assert "BTC, BTT, TOKAMAK" in text(driver, "notice")
        wait_for(lambda: (text(driver, "asset-name"), address(driver)) == ("BTT", "#BTT"))
        assert driver.execute_script("return localStorage.getItem('asset')") == "BTT"
        there_and_back(driver)


@pytest.mark.parametrize("name", ["DOGE", "%"])
def test_an_unknown_asset_is_named_from_the_start(
    platform: Platform, driver: webdriver.Chrome, name: str
) -> None:
    driver.get("about:blank")
    driver.get(f"{platform.url}/#{name}")
    wait_for(lambda: "no index of" in text(driver, "notice"))
    wait_for(lambda: text(driver, "asset-name") == "BTT" and text(driver, "value") != "–")
    there_and_back(driver)


def there_and_back(driver: webdriver.Chrome) -> None:
    """Choose another asset: the notice about the unknown one disappears. Then choose BTT again."""
    driver.find_element(By.CSS_SELECTOR, "#assets .name").click()
    wait_for(lambda: text(driver, "asset-name") == "BTC")
    wait_for(lambda: not driver.find_element(By.ID, "notice").is_displayed())
    go(driver, "#BTT")
    wait_for(lambda: text(driver, "asset-name") == "BTT")


def test_the_table_lists_every_venue_of_a_renamed_coin(driver: webdriver.Chrome) -> None:
    go(driver, "#tokamak")
    rows = "return [...document.querySelectorAll('#venues tbody tr')].map((r) => r.dataset.venue)"
    expected = {"upbit:TON/KRW", "upbit:TOKAMAK/KRW", "binance:TOKAMAK/USDT", "upbit:USDT/KRW"}
    wait_for(
        lambda: expected <= set(driver.execute_script(rows)),
        shown=lambda: str(driver.execute_script(rows)),
    )
    # a market that does not count is also listed
    go(driver, "#BTC")
    wait_for(lambda: "binance:BTC/USDC" in driver.execute_script(rows))
