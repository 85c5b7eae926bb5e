"""What the page shows of its data: a real endpoint whose publishers a test stops and starts."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: `pip install --group test`")

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Key

from coinspace.config import Settings
from coinspace.method.record import PremiumRecord
from tests.browser.site import HOW_TO_GET_ONE, build_page, chromium, may_skip
from tests.flow.endpoint_stage import Stage, running, settings
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(may_skip(), reason=HOW_TO_GET_ONE),
    pytest.mark.timeout(420),
    # the driver's local sockets are closed by its garbage collection
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FOLDER = Path(__file__).parent
ASSETS = ["BTC", "ETH", *(f"A{number:02}" for number in range(98))]
PREPARED = (FOLDER / "prepared.js").read_text()


class Feed:
    """Publishes indices and books until it is stopped.

    Attributes: index, books (published while true), more (fields of the records), value (of BTC).
    """

    def __init__(self) -> None:
        self.url = ""
        self.settings: Settings | None = None
        self.index = self.books = True
        self.more: dict[str, Any] = {}
        self.value: float | None = 1000.0
        self._ready, self._stop = threading.Event(), threading.Event()

    def reset(self) -> None:
        """Publish everything again."""
        self.index = self.books = True
        self.more, self.value = {}, 1000.0

    async def _publish(self, folder: Path) -> None:
        chosen = settings(folder)
        chosen.index.assets = ASSETS
        self.settings = chosen
        async with running(chosen) as (stage, endpoint):
            self.url = endpoint.server.url
            self._ready.set()
            turn = 0
            while not self._stop.is_set():
                turn += 1
                self._one(stage, turn)
                await asyncio.sleep(0.1)

    def _one(self, stage: Stage, turn: int) -> None:
        if self.index:
            for number, asset in enumerate(ASSETS if turn % 10 == 0 else ASSETS[:2]):
                value = self.value and self.value + 100 * number + turn % 7
                premium = 0.0000145 + 0.0001 * number
                parts = {"premium": premium, "premium_parts": PremiumRecord(None, premium, None)}
                stage.publish_index(asset, value, **parts | self.more)
        if self.books:
            stage.publish_aggregate("BTC")
            stage.publish_aggregate("ETH")

    @contextmanager
    def running(self, folder: Path) -> Iterator[Feed]:
        """Run the endpoint and its publishers on a thread of their own."""
        thread = threading.Thread(target=asyncio.run, args=(self._publish(folder),))
        thread.start()
        try:
            assert self._ready.wait(60)
            yield self
        finally:
            self._stop.set()
            thread.join(60)


@pytest.fixture(scope="module")
def running_feed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Feed]:
    build_page()
    with Feed().running(tmp_path_factory.mktemp("page")) as started:
        yield started


@pytest.fixture(scope="module")
def browser(running_feed: Feed) -> Iterator[webdriver.Chrome]:
    with chromium() as found:
        found.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": PREPARED})
        found.get(f"{running_feed.url}/#BTC")
        yield found


@pytest.fixture
def feed(running_feed: Feed) -> Iterator[Feed]:
    yield running_feed
    running_feed.reset()


@pytest.fixture
def page(feed: Feed, browser: webdriver.Chrome) -> webdriver.Chrome:
    """The live page of BTC."""
    if not browser.current_url.startswith(f"{feed.url}/#"):
        browser.get(f"{feed.url}/#BTC")
    wait_for(lambda: state(browser) == "live", shown=lambda: state(browser))
    return browser


def text(driver: webdriver.Chrome, name: str) -> str:
    return str(
        driver.execute_script("return document.getElementById(arguments[0]).innerText", name)
    )


def state(driver: webdriver.Chrome) -> str:
    return str(driver.execute_script("return document.getElementById('connection').dataset.state"))


def has_class(driver: webdriver.Chrome, name: str, wanted: str) -> bool:
    script = "return document.getElementById(arguments[0]).classList.contains(arguments[1])"
    return bool(driver.execute_script(script, name, wanted))


def module(driver: webdriver.Chrome, name: str, script: str) -> Any:
    """Run a script with a module of the page as `m`; it calls `done` with its result."""
    return driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "const app = document.querySelector('script[type=module]').src;"
        f"import(app.replace('app.js', '{name}')).then(async (m) => {{ {script} }})"
    )


HOLES = (FOLDER / "holes.js").read_text()


@pytest.mark.parametrize("style", ["line", "candles"])
@pytest.mark.parametrize("live", ["", "nulls", "silence"])
def test_a_time_without_values_is_a_hole_in_every_series(
    page: webdriver.Chrome, style: str, live: str
) -> None:
    script = HOLES.replace("STYLE", f'"{style}"').replace("LIVE", f'"{live}"')
    found = module(page, "charts.js", script)
    assert found["before"] > 100
    assert found["after"] > 100
    assert found["hole"] == 0
    assert found["values"] == {"kr": 60, "premium": 60}
    assert found["follows"] >= 119


def test_no_value_is_not_live(feed: Feed, page: webdriver.Chrome) -> None:
    feed.value, feed.more = None, {"reason": "not_computed"}
    wait_for(lambda: state(page) == "no_value")
    wait_for(lambda: "tick not computed" in text(page, "notice"))
    wait_for(lambda: text(page, "value") == "–")
    feed.reset()
    wait_for(lambda: state(page) == "live")
    wait_for(lambda: "tick not computed" not in text(page, "notice"))


def test_a_reason_from_outside_changes_nothing_around_it(
    feed: Feed, page: webdriver.Chrome
) -> None:
    given = ["a\u202eb", "\x9b2J\n", "x" * 1000, "거래 정지", "שלום", "constructor"]
    shown = module(page, "i18n.js", f"done({json.dumps(given)}.map(m.reasonText))")
    cut, isolated = "x" * 200 + "…", "\u2068שלום\u2069"
    escaped = [r"a\u{202e}b", r"\u{9b}2J\u{a}"]
    assert shown == [*escaped, cut, "거래 정지", isolated, "constructor"]
    feed.value, feed.more = None, {"reason": "$& <b>\u202e"}
    wait_for(lambda: r"$& <b>\u{202e}" in text(page, "notice"))
    feed.reset()
    wait_for(lambda: state(page) == "live")


def test_an_old_book_is_dimmed(feed: Feed, page: webdriver.Chrome) -> None:
    dimmed = ("ladder", "depth", "depth-table")
    wait_for(lambda: not any(has_class(page, one, "old") for one in dimmed))
    feed.books = False
    wait_for(
        lambda: (
            all(has_class(page, one, "old") for one in dimmed)
            and "order book is old" in text(page, "notice")
            and state(page) == "live"
        )
    )
    feed.reset()
    wait_for(lambda: not any(has_class(page, one, "old") for one in dimmed))


def test_a_silent_index_is_stale_and_its_notice_does_not_change(
    feed: Feed, page: webdriver.Chrome
) -> None:
    page.execute_script(
        "window.said = [];"
        "new MutationObserver(() => window.said.push(document.getElementById('notice').innerText))"
        ".observe(document.getElementById('notice'), {childList: true, characterData: true,"
        " subtree: true})"
    )
    feed.index = False
    wait_for(lambda: state(page) == "stale" and "old" in text(page, "notice"))
    assert "Stale" in page.title
    said = page.execute_script("return window.said.length")
    ages: set[str] = set()

    def aged() -> bool:
        ages.add(text(page, "age"))
        return len(ages) >= 4

    wait_for(aged)
    assert page.execute_script("return window.said.length") == said
    feed.reset()
    wait_for(lambda: state(page) == "live")
    assert page.find_element(By.ID, "value").get_attribute("aria-live") is None
    assert page.find_elements(By.CSS_SELECTOR, "output, [role=alert], [aria-live]") == []


def test_the_title_goes_on_in_a_background_tab(page: webdriver.Chrome) -> None:
    own = page.current_window_handle
    page.switch_to.new_window("tab")
    try:
        titles: set[str] = set()

        def seen() -> bool:
            found = page.execute_cdp_cmd("Target.getTargets", {})["targetInfos"]
            titles.update(one["title"] for one in found if re.match(r"[\d,.]+ BTC", one["title"]))
            return len(titles) >= 3

        wait_for(seen, shown=lambda: str(titles))
    finally:
        page.close()
        page.switch_to.window(own)


def ranges(driver: webdriver.Chrome) -> list[int]:
    """Return the ends of the ranges of history that the page has asked for."""
    script = (
        "return performance.getEntriesByType('resource').map((one) => one.name)"
        ".filter((one) => one.includes('/ohlc?'))"
        ".map((one) => Number(new URL(one).searchParams.get('end')))"
    )
    found: list[int] = driver.execute_script(script)
    return found


def near(moment_ms: float) -> bool:
    return abs(moment_ms - time.time() * 1000) < 120_000


@pytest.mark.parametrize(("skew_ms", "word"), [(300_000, "fast"), (-40 * 86_400_000, "slow")])
def test_a_wrong_clock_is_noticed_and_the_servers_time_is_used(
    feed: Feed, page: webdriver.Chrome, skew_ms: int, word: str
) -> None:
    page.get("about:blank")
    page.get(f"{feed.url}/?skew={skew_ms}#BTC")
    wait_for(lambda: state(page) == "live", shown=lambda: state(page))
    wait_for(lambda: f"clock is {word}" in text(page, "notice"), shown=lambda: text(page, "notice"))
    wait_for(lambda: ranges(page))
    assert all(near(end) for end in ranges(page))
    wait_for(lambda: re.search(r"updated \d+ ms ago", text(page, "age")))


def test_a_page_that_slept_for_an_hour_loads_everything_again(page: webdriver.Chrome) -> None:
    before = len(wait_for(lambda: ranges(page)))
    page.execute_script("window.skew += 3_600_000")
    wait_for(lambda: len(ranges(page)) > before)
    assert all(near(end) for end in ranges(page))
    wait_for(lambda: state(page) == "live" and "clock is fast" in text(page, "notice"))
    page.execute_script("window.skew = 0")
    wait_for(lambda: "clock" not in text(page, "notice"))
    wait_for(lambda: re.search(r"updated \d+ ms ago", text(page, "age")))


def test_a_loss_has_a_minus_and_fees_are_named(feed: Feed, page: webdriver.Chrome) -> None:
    # prices in Korea are between the bid and the ask of the other side: both directions lose
    facts = re.compile(r"Profit before fees\s+-0\.0\d\d%\s+buy ₩10 million in Korea")
    wait_for(lambda: facts.search(text(page, "facts")), shown=lambda: text(page, "facts"))
    assert feed.settings is not None
    feed.settings.index.parameters.taker_fees = {
        "upbit": 0.0005,
        "bithumb": 0.0005,
        "binance": 0.001,
    }
    try:
        page.refresh()
        facts = re.compile(r"Profit after fees\s+-0\.1\d\d%\s+buy ₩10 million in Korea")
        wait_for(lambda: facts.search(text(page, "facts")), shown=lambda: text(page, "facts"))
        assert page.find_elements(By.CSS_SELECTOR, "#facts dd.neg")
    finally:
        feed.settings.index.parameters.taker_fees = {}
        page.refresh()


def test_the_premium_has_its_range_of_the_day(feed: Feed, page: webdriver.Chrome) -> None:
    feed.more = {"premium": 0.0123, "premium_parts": PremiumRecord(None, 0.0123, None)}
    shown = re.compile(r"24 h: \S+ to \+1\.23%, above 100%")
    wait_for(
        lambda: shown.search(text(page, "premium-day")), shown=lambda: text(page, "premium-day")
    )


def test_numbers_of_a_column_have_the_same_decimals(page: webdriver.Chrome) -> None:
    column = (
        "return [...document.querySelectorAll(`#ladder .row:not(.head) > span:nth-of-type("
        "${arguments[0]})`)].filter((one) => one.parentNode.style.visibility === 'visible')"
        ".map((one) => one.textContent)"
    )
    for number in (1, 2, 3):
        shown: list[str] = wait_for(partial(page.execute_script, column, number))
        assert len({len(one.partition(".")[2]) for one in shown}) == 1, shown
    script = (
        "const prices = ['1.531401', '1.531404', '1.531402', '0.99999'];"
        "const digits = m.columnDecimals(prices);"
        "const size = m.columnSize(32400);"
        "done([prices.map((one) => m.price(one, '', digits)), [32400, 5058, 0.2].map(size),"
        " [0.12, 4].map(m.columnSize(4)), m.columnSize(3e7)(2e6)])"
    )
    prices, large, small, millions = module(page, "format.js", script)
    assert prices == ["1.531401", "1.531404", "1.531402", "0.999990"]
    assert large == ["32,400", "5,058", "<1"]
    assert small == ["0.1200", "4.0000"]
    assert millions == "2.000M"


def test_the_layout_does_not_move(feed: Feed, page: webdriver.Chrome) -> None:
    drawn = "return +(document.getElementById('depth').dataset.drawn || 0)"
    shifts = "return window.shifts"

    def moved_during(updates: int) -> bool:
        first, moved = page.execute_script(drawn), len(page.execute_script(shifts))
        wait_for(lambda: page.execute_script(drawn) >= first + updates)
        return len(page.execute_script(shifts)) > moved

    page.refresh()
    wait_for(lambda: page.execute_script(drawn) >= 5)
    wait_for(lambda: not moved_during(5), "a page that has loaded")
    loaded = page.execute_script(shifts)
    # ten minutes have 3,000 updates: those after the first ones must hardly move anything
    moved_during(20)
    found = page.execute_script(shifts)[len(loaded) :]
    assert sum(one["value"] for one in found) < 0.005, found
    feed.value, feed.more = None, {"reason": "too_few_venues"}
    wait_for(lambda: state(page) == "no_value")
    feed.reset()
    wait_for(lambda: state(page) == "live")
    # a value that is lost and returns moves its line once
    found = page.execute_script(shifts)
    assert sum(one["value"] for one in found) < 0.1, found


CONTRAST = (FOLDER / "contrast.js").read_text()


def test_texts_have_enough_contrast_in_both_themes(page: webdriver.Chrome) -> None:
    body = page.find_element(By.TAG_NAME, "body")
    wait_for(lambda: "binance" in text(page, "ladder-legend"))
    for _ in range(2):
        body.send_keys("t")
        for name in ("market", "premiums", "operations"):
            page.find_element(By.CSS_SELECTOR, f"#views [data-value='{name}']").click()
            for _ in range(2):
                page.find_element(By.ID, "colours").click()
                # a colour that fades is between two
                page.execute_script("document.getAnimations().forEach((one) => one.finish())")
                count, found = page.execute_script(CONTRAST)
                assert count > 10
                assert found == []
    page.find_element(By.CSS_SELECTOR, "#views [data-value='market']").click()


def test_every_chart_shows_the_values_under_the_cursor(page: webdriver.Chrome) -> None:
    assert page.find_element(By.CSS_SELECTOR, "#legend button").text == "Index"
    node = page.find_element(By.ID, "chart")

    def read() -> str:
        # the newest values are left of the axis
        for left in range(100, 400, 15):
            ActionChains(page, duration=0).move_to_element_with_offset(
                node, node.size["width"] // 2 - left, 0
            ).perform()
            if "Premium" in text(page, "chart-readout"):
                return text(page, "chart-readout")
        return ""

    shown = wait_for(read)
    assert re.match(
        r"\d{4}-\d\d-\d\d [\d:]{8} · Index [\d,.]+ · Korea [\d,.]+ · Global [\d,.]+"
        r" · Premium 0\.\d{3}%",
        shown,
    ), shown
    ActionChains(page, duration=0).move_to_element(page.find_element(By.ID, "depth")).perform()
    wait_for(lambda: "binance" in text(page, "depth-readout"))


def names(driver: webdriver.Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('#assets .name')].map((one) => one.textContent)"
    found: list[str] = driver.execute_script(script)
    return found


def test_a_hundred_assets_are_searched_sorted_and_marked(page: webdriver.Chrome) -> None:
    wait_for(lambda: names(page) == ASSETS)
    search = page.find_element(By.ID, "asset-search")
    search.send_keys("a1")
    wait_for(lambda: names(page) == [f"A1{number}" for number in range(10)])
    search.send_keys(Key.ENTER)
    wait_for(lambda: text(page, "asset-name") == "A10")
    search.send_keys("x")
    wait_for(lambda: "No asset" in text(page, "assets"))
    search.send_keys(*[Key.BACKSPACE] * 3)
    wait_for(lambda: len(names(page)) == 100)
    heading = page.find_element(By.CSS_SELECTOR, "#assets [data-column='value']")
    heading.click()
    wait_for(lambda: names(page)[0] == "A97" and names(page)[-1] == "BTC")
    assert page.find_element(By.CSS_SELECTOR, "#assets [aria-sort='descending']").text
    heading.click()
    wait_for(lambda: names(page)[0] == "BTC")
    heading.click()
    wait_for(lambda: names(page) == ASSETS)
    star = "document.querySelector(`#assets [data-asset='${arguments[0]}'] .star`).click()"
    page.execute_script(star, "A50")
    wait_for(lambda: names(page)[:2] == ["A50", "BTC"])
    page.refresh()
    wait_for(lambda: names(page)[:2] == ["A50", "BTC"])
    page.execute_script(star, "A50")
    wait_for(lambda: names(page) == ASSETS)


TEN_THOUSAND = json.dumps([f"X{number}" for number in range(10_000)])


@pytest.mark.parametrize("kept", ["nonsense", '{"a":1}', "[1,null]", '"BTC"', TEN_THOUSAND])
def test_favourites_and_alerts_that_cannot_be_used_are_ignored(
    page: webdriver.Chrome, kept: str
) -> None:
    for key in ("favourites", "alerts"):
        page.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, kept)
    page.refresh()
    wait_for(lambda: names(page) == ASSETS)
    # however many there are, one more has room
    page.execute_script("document.querySelector(`#assets [data-asset='A50'] .star`).click()")
    wait_for(lambda: names(page)[0] == "A50")
    assert len(json.loads(page.execute_script("return localStorage.getItem('favourites')"))) <= 1000
    for key in ("favourites", "alerts"):
        page.execute_script("localStorage.removeItem(arguments[0])", key)
    page.refresh()


def test_an_unknown_address_is_named(feed: Feed, page: webdriver.Chrome) -> None:
    page.execute_script("location.hash = '#NOPE'")
    wait_for(
        lambda: "There is no index of NOPE" in text(page, "notice"),
        shown=lambda: text(page, "notice") + page.current_url,
    )
    assert text(page, "notice").endswith("A06, A07, ….")
    assert text(page, "asset-name") in ASSETS
    page.execute_script("location.hash = '#BTC'")
    page.find_element(By.CSS_SELECTOR, "#assets [data-asset='ETH'] .name").click()
    wait_for(lambda: "NOPE" not in text(page, "notice"))


def test_the_list_covers_a_phone_until_an_asset_is_chosen(page: webdriver.Chrome) -> None:
    metrics = {"width": 344, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        wide = "return document.documentElement.scrollWidth - window.innerWidth"
        wait_for(lambda: page.execute_script(wide) <= 0)
        shown = page.find_element(By.ID, "assets")
        wait_for(lambda: not shown.is_displayed())
        page.find_element(By.ID, "pick").click()
        wait_for(shown.is_displayed)
        assert page.execute_script(wide) <= 0
        page.find_element(By.CSS_SELECTOR, "#assets [data-asset='A03'] .name").click()
        wait_for(lambda: text(page, "asset-name") == "A03" and not shown.is_displayed())
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_script("location.hash = '#BTC'")
        wait_for(lambda: text(page, "asset-name") == "BTC")


def test_rising_prices_are_red_in_korean_unless_chosen(feed: Feed, page: webdriver.Chrome) -> None:
    page.execute_script("localStorage.clear()")
    page.refresh()
    wait_for(lambda: state(page) == "live")
    rising = (
        "const [r, g, b] = getComputedStyle(document.querySelector('#ladder .bid .price'))"
        ".color.match(/\\d+/g).map(Number); return r > g ? 'red' : 'green'"
    )
    body = page.find_element(By.TAG_NAME, "body")
    assert page.execute_script(rising) == "green"
    body.send_keys("l")
    wait_for(lambda: page.execute_script(rising) == "red")
    page.find_element(By.ID, "colours").click()
    assert page.execute_script(rising) == "green"
    page.refresh()
    wait_for(lambda: state(page) == "live" and "김치 프리미엄" in text(page, "hero"))
    assert page.execute_script(rising) == "green"
    page.execute_script("localStorage.clear()")
    page.refresh()


def test_operations_have_a_tab_of_their_own(page: webdriver.Chrome) -> None:
    market, operations = (page.find_element(By.ID, one) for one in ("market", "operations"))
    assert market.is_displayed()
    assert not operations.is_displayed()
    page.find_element(By.CSS_SELECTOR, "#views [data-value='operations']").click()
    assert not market.is_displayed()
    assert page.find_element(By.ID, "pipeline").is_displayed()
    assert page.find_element(By.ID, "gaps").is_displayed()
    page.find_element(By.TAG_NAME, "body").send_keys("o")
    assert market.is_displayed()
    assert not operations.is_displayed()


def view(driver: webdriver.Chrome, name: str) -> None:
    driver.find_element(By.CSS_SELECTOR, f"#views [data-value='{name}']").click()


@pytest.fixture
def premiums(page: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The page of all premiums, with all rows."""
    view(page, "premiums")
    try:
        wait_for(lambda: len(ranked(page)) == 100 and "–" not in column(page, "coin")[:20])
        yield page
    finally:
        view(page, "market")


def visible(driver: webdriver.Chrome) -> bool:
    """Return whether the table of premiums is shown."""
    return driver.find_element(By.ID, "premium-list").is_displayed()


def ranked(driver: webdriver.Chrome) -> list[str]:
    """Return the assets of the table of premiums, in its order."""
    script = (
        "return [...document.querySelectorAll('#premium-list tbody tr')]"
        ".map((one) => one.dataset.asset)"
    )
    found: list[str] = driver.execute_script(script)
    return found


def column(driver: webdriver.Chrome, name: str) -> list[str]:
    script = (
        "return [...document.querySelectorAll(`#premium-list td.c-${arguments[0]}`)]"
        ".map((one) => one.textContent)"
    )
    found: list[str] = driver.execute_script(script, name)
    return found


def test_premiums_are_sorted_searched_marked_and_opened(premiums: webdriver.Chrome) -> None:
    page = premiums
    highest = list(reversed(ASSETS))
    wait_for(lambda: ranked(page) == highest, shown=lambda: str(ranked(page)))
    assert re.fullmatch(r"\+0\.\d\d%", column(page, "coin")[0])
    heading = page.find_element(By.CSS_SELECTOR, "#premium-list [data-column='coin']")
    assert heading.text.startswith("vs USDT")
    heading.click()
    assert ranked(page) == ASSETS
    page.find_element(By.CSS_SELECTOR, "#premium-list [data-column='asset']").click()
    assert ranked(page) == sorted(ASSETS)
    star = "document.querySelector(`#premium-list [data-asset='${arguments[0]}'] .star`).click()"
    page.execute_script(star, "A50")
    assert ranked(page)[:2] == ["A50", "A00"]
    page.find_element(By.ID, "premium-only").click()
    assert ranked(page) == ["A50"]
    page.find_element(By.ID, "premium-only").click()
    page.execute_script(star, "A50")
    search = page.find_element(By.ID, "premium-search")
    search.send_keys("a1")
    assert ranked(page) == [f"A1{number}" for number in range(10)]
    search.send_keys("x")
    assert "No asset" in text(page, "premium-list")
    search.send_keys(Key.BACKSPACE, Key.BACKSPACE, Key.BACKSPACE)
    page.find_element(By.CSS_SELECTOR, "#premium-list [data-asset='A03'] .name").click()
    wait_for(lambda: text(page, "asset-name") == "A03" and not visible(page))
    page.back()
    wait_for(lambda: visible(page) and page.current_url.endswith("#/premium"))
    page.forward()
    wait_for(lambda: page.current_url.endswith("#A03") and not visible(page))
    page.execute_script("location.hash = '#BTC'")
    wait_for(lambda: text(page, "asset-name") == "BTC")
    view(page, "premiums")


PREMIUM_TABLE = (FOLDER / "premium_table.js").read_text()


def test_what_is_unknown_old_or_another_coin_is_never_a_number_or_a_rank(
    page: webdriver.Chrome,
) -> None:
    found = module(page, "premium-feed.js", PREMIUM_TABLE)
    # an absent field is a dash; nothing is 0
    assert found["unknown"] == ["–"] * 9 + [""] * 2
    # favourites first, then by premium, then without one, then what may be another coin
    assert found["order"] == ["LOW", "HIGH", "MIDDLE", "OLD", "NONE", "OTHER"]
    assert found["classes"] == ["", "", "", "old", "", "doubt"]
    assert found["places"] == ["10", "90", "50", "–", "–", "–"]
    assert found["badges"] == ["", "suspect", "caution", "Stale", "", "not the same coin?"]
    assert found["wallets"] == ["–", "partly", "closed", "–", "–", "–"]
    assert found["warned"][2] == "upbit:ABC/KRW PRICE_FLUCTUATIONS"
    # the rest of a row stays when the stream sends a part, and null is a value
    assert found["merged"] == {"coin": 0.02, "fiat": None, "change": 0.001, "percentile": 0.4}
    assert found["gone"] == {"coin": None, "percentile": None}


def test_premiums_that_stop_are_dimmed(feed: Feed, premiums: webdriver.Chrome) -> None:
    page = premiums
    wait_for(lambda: re.match(r"BTC \+?0\.\d\d% vs USDT · CoinSpace", page.title))
    feed.index = False
    wait_for(lambda: state(page) == "stale" and "premiums are old" in text(page, "notice"))
    wait_for(lambda: has_class(page, "premium-list", "old"))
    assert "Stale" in page.title
    feed.reset()
    wait_for(lambda: state(page) == "live" and not has_class(page, "premium-list", "old"))


def test_an_alert_is_shown_notified_and_kept(feed: Feed, premiums: webdriver.Chrome) -> None:
    page = premiums
    page.execute_script(
        "window.notified = [];"
        "window.Notification = class { static permission = 'granted';"
        " constructor(title, more) { window.notified.push(`${title}: ${more.body}`); } }"
    )
    page.find_element(By.ID, "alerts").click()
    page.execute_script("document.getElementById('alert-notify').click()")
    level = page.find_element(By.ID, "alert-level")
    level.send_keys("nothing", Key.ENTER)
    assert text(page, "alert-problem") == "Enter a number."
    level.clear()
    page.execute_script("document.getElementById('alert-asset').value = 'BTC'")
    level.send_keys("1.5", Key.ENTER)
    assert "BTC vs USDT at or above +1.50%" in text(page, "alert-rules")
    page.find_element(By.ID, "alert-close").click()
    message = page.find_element(By.ID, "alert-message")
    assert not message.is_displayed()
    feed.more = {"premium": 0.02, "premium_parts": PremiumRecord(None, 0.02, None)}
    wait_for(message.is_displayed)
    assert "BTC +2.00%" in text(page, "alert-message")
    expected = ["CoinSpace · BTC vs USDT at or above +1.50%: BTC +2.00%"]
    assert page.execute_script("return window.notified") == expected
    page.refresh()
    wait_for(lambda: text(page, "alerts") == "Alerts · 1")
    page.find_element(By.ID, "alerts").click()
    page.execute_script("document.querySelector('#alert-rules button').click()")
    page.find_element(By.ID, "alert-close").click()
    assert text(page, "alerts") == "Alerts"
    page.execute_script("localStorage.removeItem('alerts')")


def test_alerts_fire_once_until_the_value_returns(page: webdriver.Chrome) -> None:
    found = module(page, "alerts.js", (FOLDER / "alerts.js").read_text())
    assert found["above"] == [["BTC"], [], [], [], ["BTC"], [], [], ["BTC"]]
    assert found["place"] == [["BTC"], []]
    assert found["every"] == ["A0", "A1", "A2", "A3", "A4", 3]
    assert found["unknown"] == []
    # a short loss of the connection is none
    assert found["down"] == [[], [], ["upbit"], [], [], ["upbit"]]
    assert found["rules"] == 50
    assert found["refused"] == [None] * 7


def test_a_browser_without_storage_and_notifications(feed: Feed, page: webdriver.Chrome) -> None:
    page.get("about:blank")
    page.get(f"{feed.url}/?bare#ETH")
    wait_for(lambda: state(page) == "live" and text(page, "asset-name") == "ETH")
    page.execute_script("document.querySelector(`#assets [data-asset='A50'] .star`).click()")
    wait_for(lambda: names(page)[0] == "A50")
    page.find_element(By.TAG_NAME, "body").send_keys("t")
    view(page, "premiums")
    wait_for(lambda: len(ranked(page)) == 100)
    page.find_element(By.ID, "alerts").click()
    assert text(page, "alert-notify") == "No notifications in this browser"
    page.find_element(By.ID, "alert-level").send_keys("-1", Key.ENTER)
    assert "any asset vs USDT at or above -1.00%" in text(page, "alert-rules")
    page.find_element(By.ID, "alert-close").click()
    wait_for(page.find_element(By.ID, "alert-message").is_displayed)
    page.find_element(By.TAG_NAME, "body").send_keys("l", "p")
    wait_for(lambda: "김치 프리미엄" in text(page, "hero"))
