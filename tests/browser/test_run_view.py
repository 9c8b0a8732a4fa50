"""A run's page in a real browser, over runs that were really trained."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import time

import numpy as np
import pytest

from browsers import MARKS, wait_until
from surgecollapse.record import RunStore

pytestmark = MARKS


def id_of(name):
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def opened(page, open_page, root, name="gmp-s0", query=""):
    address = open_page(root, f"#/{id_of(name)}{query}")
    page.wait_for_selector(".chart canvas")
    return address


def location_of(page):
    """The address as the page has it: `page.url` is renewed only while playwright is called."""
    return page.evaluate("location.href")


def label_of(page):
    return page.locator("#charts canvas").first.get_attribute("aria-label")


def table_of(page, title):
    """The downloaded table of a chart: rows of text by heading."""
    chart = page.locator(f'.chart[data-title="{title}"]')
    chart.scroll_into_view_if_needed()
    chart.locator("summary").click()
    with page.expect_download() as got:
        chart.get_by_role("button", name="CSV").click()
    with open(got.value.path(), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_reading_is_a_point_of_a_line_and_the_sparsity_is_that_of_the_interventions(trained, page, open_page):
    opened(page, open_page, trained)
    with RunStore(trained / "gmp-s0" / "run.db") as store:
        readings, acts = store.readings(), store.interventions()
    rows = [row for row in table_of(page, "entropy/activation") if row["mean of layers"]]
    assert [int(row["step"]) for row in rows] == [reading.step for reading in readings]
    assert [float(row["mean of layers"]) for row in rows] == [reading.entropy for reading in readings]
    steps = {int(row["step"]): float(row["all"]) for row in table_of(page, "sparsity")}
    for act in acts:
        last = [one for one in acts if one.step == act.step][-1]
        assert steps[act.step] == last.sparsity_after


def test_few_points_are_points_and_what_holds_is_steps(folder, page, open_page):
    with RunStore(folder / "gmp-s0" / "run.db", mode="a") as store:
        for step in (20, 60, 100):  # as a monitor measures that has a budget
            store.measure(step, "entropy/rare", step / 100)
    opened(page, open_page, folder, query="?find=sparsity")
    chart = page.locator('.chart[data-title="sparsity"]')
    chart.locator("summary").click()
    with page.expect_download() as got:
        chart.get_by_role("button", name="SVG").click()
    drawing = got.value.path().read_text(encoding="utf-8")
    assert re.search(r'd="M[\d.]+ [\d.]+H[\d.]+V', drawing)  # across, then up
    page.locator("#find").fill("entropy/rare")
    chart = page.locator('.chart[data-title="entropy/rare"]')
    wait_until(lambda: chart.count() == 1, "no chart")
    chart.locator("summary").click()
    with page.expect_download() as got:
        chart.get_by_role("button", name="SVG").click()
    drawing = got.value.path().read_text(encoding="utf-8")
    assert drawing.count("<circle") == 3
    assert 'fill="none"' not in drawing  # no line joins them


def test_a_picture_of_a_chart_is_a_png(trained, page, open_page):
    opened(page, open_page, trained)
    chart = page.locator(".chart").first
    chart.locator("summary").click()
    with page.expect_download() as got:
        chart.get_by_role("button", name="PNG").click()
    assert got.value.path().read_bytes().startswith(b"\x89PNG")
    assert got.value.suggested_filename == "loss.png"


def test_the_sentences_say_what_happened_and_whether_it_was_worth_it(trained, page, open_page):
    opened(page, open_page, trained)
    said = page.inner_text("#story")
    with RunStore(trained / "gmp-s0" / "run.db") as store:
        accuracy = store.get("summary")["accuracy"]
    assert "Trained digits for 120 steps with gmp in " in said
    assert f"{accuracy:.2%} test accuracy at 80.0% sparsity." in said
    assert re.search(r"of no_op-s0.*95% interval .* 2 seeds", said)
    assert "times smaller" in said
    page.get_by_role("link", name="Compare with no_op-s0").click()
    wait_until(lambda: page.locator("#title .named").count() == 2, "no comparison")


def test_the_address_keeps_axis_zoom_and_search_and_asks_kindly_for_the_token(trained, page, open_page, browser):
    address = opened(page, open_page, trained)
    page.locator("#logy").check()
    page.locator("#find").fill("loss")
    titles = page.locator(".chart h3")
    wait_until(lambda: titles.all_inner_texts() == ["loss", "gap/loss"], "the search leaves other charts")
    over = page.locator(".chart .u-over").first
    width = over.evaluate("e => e.clientWidth")
    over.hover(position={"x": width * 0.4, "y": 40})  # waits until the chart stands still and takes the mouse
    box = over.bounding_box()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40, steps=4)
    page.mouse.up()
    wait_until(lambda: "x=" in location_of(page), "the zoom is not in the address")
    page.wait_for_selector("#unzoom")
    zoomed = label_of(page)
    deep = location_of(page)
    context = browser.new_context(viewport={"width": 1300, "height": 1000})  # another browser, without the token
    try:
        other = context.new_page()
        other.goto(deep)
        other.wait_for_selector("#token")
        assert other.is_hidden("#problem")
        other.locator("#token").fill(address)
        other.get_by_role("button", name="Open").click()
        other.wait_for_selector(".chart canvas")
        assert location_of(other) == deep
        assert other.is_checked("#logy")
        assert other.input_value("#find") == "loss"
        other.wait_for_selector("#unzoom")
        assert other.locator(".chart").count() == page.locator(".chart").count()
        wait_until(lambda: label_of(other) == zoomed, "the other browser shows other values")
    finally:
        context.close()
    page.keyboard.press("Escape")
    over.dblclick()
    wait_until(lambda: "x=" not in location_of(page), "the whole run does not come back")


def test_a_pinned_chart_stands_first_also_after_a_reload(trained, page, open_page):
    opened(page, open_page, trained)
    page.get_by_label("pin time/step").click()
    wait_until(lambda: page.locator(".chart h3").first.inner_text() == "time/step", "it is not first")
    page.reload()
    page.wait_for_selector(".chart")
    wait_until(lambda: page.locator(".chart h3").first.inner_text() == "time/step", "the pin is gone")
    assert page.get_by_label("pin time/step").get_attribute("aria-pressed") == "true"


def test_configuration_environment_and_machine_are_shown(trained, page, open_page):
    opened(page, open_page, trained)
    page.keyboard.press("e")
    facts = page.inner_text("#tables")
    for word in ("method.policy", "gmp", "torch", "optimizer.lr", str(trained / "gmp-s0")):
        assert word in facts
    titles = page.locator(".chart h3").all_text_contents()
    assert {"system/cores", "system/memory_mb"} <= set(titles)
    row = table_of(page, "system/memory_mb")[-1]
    assert 50 < float(row["all"]) < 1e5  # Python with torch takes more than 50 MB


def test_a_report_opens_without_scripts_and_leads_back(folder, page, open_page):
    place = folder / "gmp-s0" / "report"
    place.mkdir()
    (place / "index.html").write_text("<!doctype html><body><script>document.title = 'ran'</script>the report")
    opened(page, open_page, folder)
    page.get_by_role("link", name="report", exact=True).click()
    wait_until(lambda: "the report" in page.inner_text("body"), "no report")
    assert page.title() != "ran"
    page.get_by_role("link", name="back to the run").click()
    page.wait_for_selector(".chart canvas")
    assert "surgecollapse analyze" in page.inner_text("#documents")


def test_histograms_over_time_are_ridges(folder, page, open_page):
    with RunStore(folder / "gmp-s0" / "run.db", mode="a") as store:
        for step in (40, 80, 120):
            counts, edges = np.histogram(np.random.default_rng(step).normal(size=500), bins=20)
            store.put_array(step, "histogram/weights/w", np.stack([edges, np.append(counts, 0), np.zeros(21)]))
    opened(page, open_page, folder)
    page.locator("#arrays summary").click()
    page.locator("#array").select_option("histogram/weights/w")
    wait_until(lambda: "3 recordings, the newest (step 120)" in page.inner_text("#picture"), "no ridges")
    assert page.locator("#picture canvas").count() == 1


def test_the_browser_tells_when_a_run_ends(folder, page, open_page):
    with RunStore(folder / "gmp-s0" / "run.db", mode="a") as store:
        store.set("status", "running")
    page.context.grant_permissions(["notifications"])
    page.add_init_script("""
        window.told = [];
        window.Notification = class {
            static permission = "granted";
            static async requestPermission() { return "granted"; }
            constructor(title) { window.told.push(title); }
        };""")
    open_page(folder)
    wait_until(lambda: "live" in page.inner_text("#runs"), "no list")
    page.locator("#notify").click()
    wait_until(lambda: page.locator("#notify").get_attribute("aria-pressed") == "true", "it stays off")
    with RunStore(folder / "gmp-s0" / "run.db", mode="a") as store:
        store.set("status", "diverged")
    wait_until(lambda: page.evaluate("window.told") == ["gmp-s0 has diverged"], "nothing is told")


def test_a_branch_and_a_twin_are_shown_with_the_run(folder, page, open_page):
    (folder / "gmp-s0-twin").mkdir()
    final = {"name": "accuracy", "with_it": 0.9, "without": 0.8, "difference": 0.1, "half": 0.05, "clear": True}
    said = {"version": 1, "run": "../gmp-s0", "intervention": {}, "sentence": "It bought 10 points.", "pairs": [],
            "final": [final], "curves": [], "skipped": []}  # fmt: skip
    (folder / "gmp-s0-twin" / "twin.json").write_text(json.dumps(said))
    with RunStore(folder / "gmp-s1" / "run.db", mode="a") as store:
        for key, value in {"parent": "../gmp-s0", "forked_at": 60, "forked_by": "fork"}.items():
            store.set(key, value)
    open_page(folder)
    page.wait_for_selector("#runs a")
    page.select_option("#group", "branches")
    names = page.locator("#runs .open").all_inner_texts()
    assert names.index("gmp-s1") == names.index("gmp-s0") + 1
    assert "branch of gmp-s0 at 60" in page.locator("#runs tr", has_text="gmp-s1").first.inner_text()
    page.get_by_role("link", name="gmp-s0", exact=True).click()
    page.locator("#family summary").click()
    wait_until(lambda: "It bought 10 points." in page.inner_text("#twins"), "no twin")
    assert "0.1 ± 0.05" in page.inner_text("#twins")


def test_the_result_of_a_twin_appears_when_it_is_there(folder, page, open_page):
    opened(page, open_page, folder)
    page.route(
        "**/twins",
        lambda route: (
            route.fulfill(status=202, json={"name": "gmp-s0-twin"})
            if route.request.method == "POST"
            else route.continue_()
        ),
    )
    page.locator("#family summary").click()
    page.get_by_role("button", name="twin", exact=True).click()
    wait_until(lambda: "gmp-s0-twin trains now" in page.inner_text("#launched"), "it is not started")
    (folder / "gmp-s0-twin").mkdir()
    said = {"version": 1, "run": "../gmp-s0", "sentence": "It bought nothing.", "final": []}
    (folder / "gmp-s0-twin" / "twin.json").write_text(json.dumps(said))
    wait_until(lambda: "It bought nothing." in page.inner_text("#twins"), "its result does not appear")
    assert page.inner_text("#launched") == "gmp-s0-twin is ready."


def test_a_chart_without_a_finite_value_says_so(tmp_path, page, open_page):
    (tmp_path / "runs" / "bad").mkdir(parents=True)
    with RunStore(tmp_path / "runs" / "bad" / "run.db", mode="w") as store:
        for step in range(1, 40):
            store.measure(step, "loss/train", float("nan"))
            store.measure(step, "sparsity", 0.0)
        store.set("status", "diverged")
    open_page(tmp_path / "runs", f"#/{id_of('bad')}")
    page.wait_for_selector(".chart canvas")
    assert "not finite at 1" in page.inner_text('.chart[data-title="loss"]')
    assert "diverged" in page.inner_text("#strip")


def test_a_branch_starts_from_the_page(folder, page, open_page):
    opened(page, open_page, folder)
    page.locator("#family summary").click()
    page.locator("#branch [name=at]").fill("100")
    page.locator("#branch [name=changes]").fill("lr=0.0005")
    page.get_by_role("button", name="branch", exact=True).click()
    wait_until(lambda: "trains now" in page.inner_text("#launched"), "no branch", seconds=90)
    (made,) = [place for place in folder.iterdir() if "fork-at-100" in place.name]
    until = time.monotonic() + 60
    while True:
        with RunStore(made / "run.db") as store:
            if store.get("status") == "complete" and store.get("forked_at") == 100:
                assert store.get("config")["optimizer"]["lr"] == 0.0005
                return
        assert time.monotonic() < until
        time.sleep(0.2)


NAMELESS = """[...document.querySelectorAll("button, a, input, select, summary, [role=region], dialog")]
    .filter(e => !(e.getAttribute("aria-label") || e.textContent.trim() || e.title || e.labels?.length
                   || e.getAttribute("aria-labelledby")))
    .map(e => e.outerHTML)"""
COLORS = """[...document.querySelectorAll("main *, header *")]
    .filter(e => e.offsetParent && !e.disabled && !e.closest("canvas,svg,option")
                 && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
    .map(e => {
        let back = e, color;
        do {
            color = getComputedStyle(back).backgroundColor;
            back = back.parentElement;
        } while (back && /, 0\\)$|transparent/.test(color));
        return [getComputedStyle(e).color, color, e.textContent.slice(0, 40)];
    })"""


def luminance(color):
    parts = [int(v) / 255 for v in re.findall(r"\d+", color)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, two):
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("where", ["", "#/run"])
def test_everything_has_a_name_and_enough_contrast(trained, page, open_page, theme, where):
    open_page(trained, where.replace("run", id_of("gmp-s0")))
    page.wait_for_selector(".chart canvas" if where else "#runs a")
    if page.evaluate("document.documentElement.dataset.theme") != theme:
        page.keyboard.press("t")
    nameless = page.evaluate(NAMELESS)
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    found = page.evaluate(COLORS)
    assert len(found) > 20
    faint = [(text, contrast(ink, paper)) for ink, paper, text in found if contrast(ink, paper) < 4.5]
    assert faint == []  # WCAG 2, level AA


def test_the_focus_goes_from_the_top_to_the_runs(trained, page, open_page):
    open_page(trained)
    page.wait_for_selector("#runs a")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    order = ["skip", "home", "notify", "helps", "theme", "search", "status", "group", "archived", "parameters", "open"]
    assert [seen.index(name) for name in order] == sorted(seen.index(name) for name in order)


def test_on_a_phone_nothing_is_wider_than_the_screen(trained, browser, page, open_page):
    page.set_viewport_size({"width": 390, "height": 800})
    opened(page, open_page, trained)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.is_visible("#title .named")
    page.locator("#home").click()
    page.wait_for_selector("#runs a")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
