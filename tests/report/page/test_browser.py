"""The page in a real, headless Chromium: silent, without a request, accessible, and usable with the keyboard alone.

Needs the extra `browser` and Debian's packages chromium and chromium-driver; AXE_CORE may name a newer axe.min.js.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clkit.report.page.report import Report
from tests.report.page.synthetic import MIGU, PLAIN, make_run
from tests.report.page.test_report import HOSTILE

FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync"),
)
#: Width, height, and the colours that the reader asks for.
SCREENS = {"desktop": (1280, 900, "light"), "dark": (1280, 900, "dark"), "phone": (390, 844, "light")}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'clkit[browser]'")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    chromium.set_script_timeout(240)  # axe takes a while where the cores are shared
    yield chromium
    chromium.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of pages: one run, six of them with hostile texts, one of fifteen tasks in progress."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [
        make_run(folder / f"{name}-{seed}", seed=seed, strategies=strategies, text=HOSTILE, examples=30)
        for name, strategies in (("plain", PLAIN), ("migu", MIGU))
        for seed in (1, 2, 3)
    ]
    tasks = [f"a rather long name of task {number}" for number in range(15)]
    wide = make_run(folder / "wide", tasks, learned=12, steps=100, strategies=MIGU)
    made = {"one": runs[:1], "six": runs, "wide": [wide]}
    return {name: Report.of(of).save(folder / f"{name}.html").as_uri() for name, of in made.items()}


def shown(browser: Any, address: str, screen: str = "desktop") -> None:
    width, height, colours = SCREENS[screen]
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wanted = {"prefers-color-scheme": colours, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wanted.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for log in ("browser", "performance"):
        browser.get_log(log)  # what was before
    browser.get(address)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("page", ["one", "six", "wide"])
def test_it_is_silent_and_fits(browser: Any, pages: dict[str, str], page: str, screen: str):
    shown(browser, pages[page], screen)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (screen == "dark")
    assert browser.get_log("browser") == []
    events = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = {one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"}
    assert {address for address in asked if not address.startswith("data:")} == {pages[page]}


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("page", ["one", "six", "wide"])
def test_axe_finds_nothing(browser: Any, pages: dict[str, str], page: str, screen: str):
    given = os.environ.get("AXE_CORE")
    axe = Path(given) if given else Path(pytest.importorskip("axe_core_python").__file__).with_name("axe.min.js")
    shown(browser, pages[page], screen)
    browser.execute_script(axe.read_text("utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert len(found["passes"]) > 20
    assert [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found["violations"]] == []


def test_examples_are_filtered_and_searched(browser: Any, pages: dict[str, str]):
    shown(browser, pages["six"])

    def found() -> tuple[int, str]:
        count = "return [...document.querySelectorAll('#examples > li')].filter((one) => one.offsetHeight).length"
        return browser.execute_script(count), browser.find_element("name", "count").text

    before, total = found()
    assert before == 20
    browser.find_element("id", "more").click()
    assert found()[0] == 40
    task = browser.find_element("name", "task")
    task.send_keys("red")  # as one types to choose
    assert int(found()[1].split()[0]) < int(total.split()[0])
    search = browser.find_element("name", "words")
    search.send_keys("RED 29")
    # Of each run one that says so and one whose place does, whatever the case.
    assert found() == (12, f"12 of {total.split()[-1]}")
    search.send_keys(" nowhere")
    assert found()[0] == 0


def test_the_keyboard_reaches_everything_in_order(browser: Any, pages: dict[str, str]):
    shown(browser, pages["one"])
    every = "a[href], button, input, select, summary, [tabindex='0']"
    visible = f'return [...document.querySelectorAll("{every}")].filter((one) => one.checkVisibility()).length'
    reached = []
    for _ in range(browser.execute_script(visible)):
        browser.switch_to.active_element.send_keys("\ue004")  # Tab
        active = browser.switch_to.active_element
        outline = active.value_of_css_property("outline-style")
        reached.append((active.id, outline))
    assert len({element for element, _ in reached}) == len(reached)
    assert {outline for _, outline in reached} <= {"solid", "auto"}
    first = browser.execute_script("return document.querySelector('a').textContent")
    assert first == "Skip to the summary"


def test_on_paper_nothing_is_folded_away(browser: Any, pages: dict[str, str]):
    shown(browser, pages["one"])
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") > 0
    assert len(browser.print_page()) > 10_000
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
