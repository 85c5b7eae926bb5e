"""The page of an endpoint that requires an API key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: `pip install --group test`")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Key

from coinspace.endpoint.http.keys import Keys, Role
from tests.browser.site import HOW_TO_GET_ONE, build_page, chromium, may_skip
from tests.flow.endpoint_stage import served
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(may_skip(), reason=HOW_TO_GET_ONE),
    # the driver's local sockets are closed by its garbage collection
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.mark.parametrize(
    ("role", "text"), [("reader", "operator's key"), ("operator", "No process")]
)
def test_the_page_asks_for_a_key_and_shows_what_it_may(
    tmp_path: Path, role: Role, text: str
) -> None:
    build_page()
    key = Keys(tmp_path / "keys.json").new("page", role)
    with served(tmp_path, require_keys=True) as url, chromium() as driver:
        driver.get(url)
        asked = "return document.getElementById('key-dialog').open"
        wait_for(lambda: driver.execute_script(asked))
        driver.find_element(By.ID, "key").send_keys(key, Key.ENTER)
        state = "return document.getElementById('connection').dataset.state"
        wait_for(lambda: driver.execute_script(state) == "live")
        wait_for(lambda: not driver.execute_script(asked))
        # 1,000 and more, a new one twenty times a second
        wait_for(lambda: re.match(r"\d,\d{3}", driver.find_element(By.ID, "value").text))
        driver.find_element(By.CSS_SELECTOR, "#views [data-value='operations']").click()
        wait_for(lambda: text in driver.find_element(By.ID, "pipeline").text)
