"""What the page shows, with invented runs: in every size and colour, whatever they are called."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.page.browser import DESKTOP, PHONE, wait_for
from tests.page.conftest import NewTab
from tests.page.invented import HOSTILE, LINK, LONG, PATH, RIGHT_TO_LEFT

VIEWS = {
    "list": "",
    "nothing fits": "#/?name=nothing-of-this-name",
    "unknown": "#/runs/never-heard-of",
}
RUNS = {
    "running": "gpt2-medium-chitchat?smoothing=0.9",
    "killed": "tiny-gpt2?axis=step&log=1",
    "stalled": "therapy-moe-stage2",
    "failed": "safety-tuning-3?axis=tokens",
    "compared": "ablation-cosine?with=ablation-no-warmup",
}


def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps somebody out."""
    return [
        f"{violation['id']}: {violation['help']}: {[node['html'][:120] for node in violation['nodes'][:3]]}"
        for violation in Axe().run(page).response["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


def keeps_out(new_tab: NewTab, url: str, size: tuple[int, int], scheme: str, views: list[str]) -> list[str]:
    """What is too wide, or keeps somebody out, or went wrong, in these views."""
    tab = new_tab(url, size=size, scheme=scheme)
    found = []
    for view in views:
        page = tab.open_run(RUNS[view]) if view in RUNS else tab.open(VIEWS[view])
        found += [f"{view}: {each}" for each in serious(page)]
        if tab.overflow():
            found.append(f"{view}: {tab.overflow()} pixels too wide")
    return found + [line for line in tab.errors if "404" not in line]


def test_list_and_run_fit_a_phone_and_keep_nobody_out(invented: str, new_tab: NewTab) -> None:
    assert keeps_out(new_tab, invented, PHONE, "dark", ["list", "killed"]) == []


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_view_fits_the_window_and_keeps_nobody_out(
    invented: str, new_tab: NewTab, size: tuple[int, int], scheme: str
) -> None:
    assert keeps_out(new_tab, invented, size, scheme, [*VIEWS, *RUNS]) == []


def test_the_keyboard_is_enough_to_find_a_run_and_open_it(invented: str, new_tab: NewTab) -> None:
    page = new_tab(invented).open()

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#view")).to_be_focused()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "tiny-gpt2":
            break
    assert page.evaluate("getComputedStyle(document.activeElement, '::after').outlineStyle") == "solid"
    page.keyboard.press("Enter")

    expect(page.get_by_role("heading", level=1)).to_have_text("tiny-gpt2")


@pytest.mark.long
@pytest.mark.parametrize("name", [HOSTILE, LINK, PATH, RIGHT_TO_LEFT, LONG])
def test_a_hostile_name_is_text_and_nothing_else(invented: str, new_tab: NewTab, name: str) -> None:
    tab = new_tab(invented, size=PHONE)
    page = tab.open()
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    page.locator(".plot.js-plotly-plot").first.wait_for()
    page.get_by_label("Compare with another run").select_option("tiny-gpt2")
    legend = page.locator("[data-chart=loss] .legendtext")
    expect(legend.first).to_be_visible()

    assert page.evaluate("window.hacked") is None
    assert page.locator("main :is(img, script), main a[href^=javascript], svg a").count() == 0
    assert tab.overflow() == 0
    assert tab.errors == []


@pytest.mark.long
def test_the_name_of_a_compared_run_is_text_in_the_charts(invented: str, new_tab: NewTab) -> None:
    tab = new_tab(invented)
    page = tab.open_run(f"tiny-gpt2?with={quote(LINK)}")

    texts = page.locator("[data-chart=loss] .legendtext")
    expect(texts.filter(has_text=LINK)).to_be_visible()  # it is drawn without the other first

    assert LINK in texts.all_text_contents()
    assert page.locator("svg a").count() == 0
    assert tab.errors == []


def test_a_run_that_is_not_known_names_some_that_are(invented: str, new_tab: NewTab) -> None:
    page = new_tab(invented).open("#/runs/never-heard-of")

    expect(page.get_by_role("heading", name="There is no such run")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="tiny-gpt2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("tiny-gpt2")


@pytest.mark.parametrize("name", [".", ".."])
def test_what_a_browser_takes_for_a_folder_is_no_run(invented: str, new_tab: NewTab, name: str) -> None:
    page = new_tab(invented).open(f"#/runs/{name}")

    expect(page.get_by_role("heading", name="There is no such run")).to_be_visible()


@pytest.mark.long
def test_the_list_is_filtered_by_state_and_name_and_can_be_sent_as_a_link(
    invented: str, new_tab: NewTab
) -> None:
    page = new_tab(invented).open()
    page.get_by_role("button", name="finished").click()
    page.get_by_label("Filter by name").fill("ablation")
    links = page.locator(".runs tbody a")

    expect(links).to_have_text(["ablation-no-warmup", "ablation-cosine"])
    assert page.url.endswith("#/?state=finished&name=ablation")
    page.reload()
    expect(links).to_have_text(["ablation-no-warmup", "ablation-cosine"])
    expect(page.get_by_role("button", name="finished")).to_have_attribute("aria-pressed", "true")


def test_a_dead_or_silent_run_cannot_be_overlooked(invented: str, new_tab: NewTab) -> None:
    page = new_tab(invented).open("#/runs/gpt2-medium-chitchat")

    alarms = page.get_by_label("Runs in trouble").get_by_role("link")
    expect(alarms).to_have_count(3)
    expect(alarms.filter(has_text="tiny-gpt2")).to_contain_text(
        re.compile(r"was killed \d+ min ago \(SIGKILL\)")
    )
    expect(alarms.filter(has_text="therapy")).to_contain_text("rank 3 of 8 fell silent first")
    assert page.title().startswith("(3!) ")
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", "assets/icon-alarm.svg")


@pytest.mark.long
def test_the_charts_zoom_together(invented: str, new_tab: NewTab) -> None:
    page = new_tab(invented, size=(1280, 2400)).open_run("gpt2-medium-chitchat?axis=step")
    page.locator("[data-chart=gradient_norm] .js-plotly-plot").wait_for()
    plot = page.locator("[data-chart=loss] .nsewdrag").first.bounding_box()
    assert plot is not None

    page.mouse.move(plot["x"] + plot["width"] * 0.25, plot["y"] + 60)
    page.mouse.down()
    page.mouse.move(plot["x"] + plot["width"] * 0.5, plot["y"] + 64, steps=4)
    page.mouse.up()

    ranges = "[...document.querySelectorAll('.js-plotly-plot')].map((plot) => plot.layout.xaxis.range)"
    wait_for(page, f"{ranges}.every(([from, to]) => from > 250 && to < 700)")
    page.get_by_role("button", name="Reset zoom").click()
    wait_for(page, f"{ranges}.every(([from, to]) => from < 10 && to > 1200)")


@pytest.mark.long
def test_smoothing_says_what_it_is_and_leaves_the_raw_curve(invented: str, new_tab: NewTab) -> None:
    page = new_tab(invented).open_run("gpt2-medium-chitchat")

    page.get_by_label("Exponential smoothing").fill("0.9")

    expect(page.get_by_text("exponential, 0.90")).to_be_visible()
    expect(page.locator("[data-chart=loss] .legendtext").first).to_have_text("training, smoothed")
    faint = "document.querySelector('[data-chart=loss] .plot').data.some((trace) => trace.opacity === 0.3)"
    assert page.evaluate(faint)


@pytest.mark.long
def test_a_chart_says_in_words_what_it_shows_and_gives_its_numbers(invented: str, new_tab: NewTab) -> None:
    page = new_tab(invented).open_run("gpt2-medium-chitchat")
    validation = page.locator("[data-chart=loss] .legendtext").filter(has_text="validation")
    expect(validation).to_be_visible()  # it is drawn without that first

    words = page.locator("[data-chart=loss] .plot").get_attribute("aria-label") or ""
    with page.expect_download() as download:
        page.get_by_role("button", name="Loss as CSV").click()
    lines = download.value.path().read_text().splitlines()

    assert words.startswith("Chart of Loss. training: newest ")
    assert download.value.suggested_filename == "gpt2-medium-chitchat-loss.csv"
    assert lines[0] == "curve,series,unit,time,step,tokens,attempt,mean,min,max"
    assert len(lines) == 1 + 1000 + 12


@pytest.mark.long
def test_the_colours_that_were_chosen_are_remembered(invented: str, new_tab: NewTab) -> None:
    page = new_tab(invented).open()
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)

    page.get_by_role("button", name="Colours: Auto").click()
    page.get_by_role("button", name="Colours: Light").click()
    dark = page.evaluate(background)
    page.reload()

    assert dark != light
    expect(page.get_by_role("button", name="Colours: Dark")).to_be_visible()
    assert page.evaluate(background) == dark


GROW = """async () => {
    const { RunView } = await import("./assets/run.js");
    const frame = { now: () => Date.now() / 1000, isDark: () => false };
    for (const name of ["title", "hear", "connection", "refreshAlarms"]) frame[name] = () => null;
    const view = new RunView(document.createElement("div"), "tiny-gpt2", new URLSearchParams(), frame);
    while (!view.stream) await new Promise((resolve) => setTimeout(resolve, 50));
    const columns = ["time", "step", "tokens", "attempt", "mean", "min", "max"];
    let [at, most] = [Date.now() / 1000, 0];
    for (let update = 0; update < 200; update += 1) {
        const column = Array.from({ length: 20 }, () => (at += 1));
        const points = Object.fromEntries(columns.map((name) => [name, column]));
        await view.grow([{ name: "loss", labels: {}, points }]);
        most = Math.max(most, view.curves.get("loss").points.time.length);
    }
    view.close();
    return most;
}"""


@pytest.mark.long
def test_curves_that_grow_without_end_are_thinned(invented: str, new_tab: NewTab) -> None:
    page = new_tab(invented).open_run("tiny-gpt2")

    assert 1500 < page.evaluate(GROW) <= 2020
