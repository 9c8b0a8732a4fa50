"""The page in a real browser, over a real training run in another process."""

from __future__ import annotations

import sqlite3
import time

import pytest

from browsers import MARKS, end, served, wait_until
from surgecollapse.record import CommandQueue, RunStore

pytestmark = MARKS


def test_a_click_reaches_the_masks_and_the_page_moves_and_asks_for_nothing_outside(live, page):
    server, address = served(live.parent)
    asked, faults = [], []
    try:
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.get_by_role("link", name="<b>run", exact=True).click(timeout=20_000)
        page.wait_for_selector(".chart canvas", timeout=20_000)
        step = "document.querySelector('#strip div:nth-child(3) b').textContent"
        first = page.evaluate(step)
        until = time.monotonic() + 15
        while page.evaluate(step) == first:
            assert time.monotonic() < until, "the page stands still"
            time.sleep(0.1)
        form = page.locator("form[data-kind=collapse]")
        form.locator("[name=fraction]").fill("0.5")
        form.locator("button").click()
        page.wait_for_selector("#asked .applied", timeout=10_000)
        page.wait_for_selector("#events .applied", timeout=10_000)
        assert not faults
        assert {url.split("/")[2] for url in asked} == {address.split("/")[2]}
        assert address.split("#")[1] not in page.url
    finally:
        end(server)
    (command,) = CommandQueue(live / "run.db").all()
    with RunStore(live / "run.db") as store:
        done = [event for event in store.interventions() if "requested by a user" in event.reason]
    assert (command.status, len(done)) == ("applied", 1)
    before = sum(change.size for change in done[0].layers) * (1 - done[0].sparsity_before)
    assert done[0].pruned == pytest.approx(before / 2, abs=len(done[0].layers) + 1)


def test_the_hardest_samples_are_a_table(live, page):
    server, address = served(live.parent)
    try:
        page.goto(address)
        page.get_by_role("link", name="<b>run", exact=True).click(timeout=20_000)
        page.wait_for_selector(".chart canvas", timeout=20_000)
        page.locator("form[data-kind=rank-samples] [name=count]").fill("7")
        page.locator("form[data-kind=rank-samples] button").click()
        page.wait_for_selector("#asked .applied", timeout=60_000)
        page.locator("#arrays summary").click()
        options = page.locator("#array option")
        wait_until(lambda: "samples/hardest" in "".join(options.all_inner_texts()), "they are not offered")
        page.select_option("#array", "samples/hardest")
        page.wait_for_selector("#picture tbody tr")
        shown = [row.split("\t") for row in page.locator("#picture tr").all_inner_texts()]
    finally:
        end(server)
    assert shown[0] == ["sample", "loss", "label", "predicted"]
    with RunStore(live / "run.db") as store:
        array = store.arrays("samples/hardest")[-1][1]
    assert [row[0] for row in shown[1:]] == [str(int(line[0])) for line in array]
    assert [float(row[1]) for row in shown[1:]] == pytest.approx(array[:, 1].tolist(), rel=0.06)


def test_forms_send_lists_choices_and_units(live, page):
    server, address = served(live.parent)
    sent = {
        "set-optimizer": {"option": "betas", "value": "0.8, 0.95"},
        "replace-schedule": {"shape": "linear", "steps": "5000"},
        "freeze-layers": {"layers": "head", "units": "1,3"},
        "set-loss": {"label_smoothing": "0.1"},
        "set-thresholds": {"values": "maximum_depth=abc"},
    }
    try:
        page.goto(address)
        page.get_by_role("link", name="<b>run", exact=True).click(timeout=20_000)
        page.wait_for_selector(".chart canvas", timeout=20_000)
        for number, (kind, values) in enumerate(sent.items()):
            form = page.locator(f"form[data-kind={kind}]")
            for name, value in values.items():
                field = form.locator(f"[name={name}]")
                field.select_option(value) if name == "shape" else field.fill(value)
            form.locator("button").click()
            if kind != "set-thresholds":
                applied = page.locator("#asked .applied")
                wait_until(lambda there=applied, n=number: there.count() == n + 1, f"{kind} is not applied")
        page.wait_for_selector("#problem:not([hidden])")
        assert "values must be a table of names and numbers" in page.inner_text("#problem")
        assert page.locator("form[data-kind=set-loss] [name=class_weights] option").all_inner_texts() == [
            "", "none", "balanced",
        ]  # fmt: skip
    finally:
        end(server)
    told = [(asked.kind, asked.body, asked.reason) for asked in CommandQueue(live / "run.db").all()]
    assert told == [
        ("set-optimizer", {"option": "betas", "value": [0.8, 0.95], "group": None}, "betas 0.9, 0.999 → 0.8, 0.95"),
        ("replace-schedule", {"shape": "linear", "steps": 5000}, told[1][2]),
        ("freeze-layers", {"layers": ["head"], "units": [1, 3]}, "froze 2 units of head"),
        ("set-loss", {"label_smoothing": 0.1, "class_weights": None}, "loss with label_smoothing 0.1"),
    ]


def test_a_page_finds_its_server_again_after_a_restart(written, page, tmp_path):
    with (tmp_path / "errors").open("w") as errors:
        server, address = served(written.path.parent.parent, stderr=errors)
    port = address.split("/#")[0].rpartition(":")[2]
    try:
        page.goto(address)
        page.get_by_role("link", name="written", exact=True).click()
        page.wait_for_selector(".chart canvas")
        end(server)
        assert (tmp_path / "errors").read_text().splitlines() in ([], ["surgecollapse: interrupted"])
        wait_until(lambda: "no server" in page.inner_text("#link"), "the page does not say that its server is gone")
        written.measure(20_000, "loss/train", 0.125)
        written.flush()
        server, again = served(written.path.parent.parent, port)
        assert again == address
        wait_until(lambda: page.inner_text("#link") == "connected", "the page does not come back")
        wait_until(lambda: "20000" in page.inner_text("#strip"), "what came meanwhile is missing")
        written.measure(20_001, "loss/train", 0.125)
        written.flush()
        wait_until(lambda: "20001" in page.inner_text("#strip"), "the page stands still after the restart")
        assert page.is_hidden("#problem")
    finally:
        end(server)


def test_thresholds_alarms_operations_and_a_zoom(written, page):
    server, address = served(written.path.parent.parent)
    try:
        page.goto(address)
        page.get_by_role("link", name="written", exact=True).click()
        page.wait_for_selector(".chart canvas")
        strip = page.inner_text("#strip")
        assert "does not generalize, says change at 15000" in strip
        assert page.inner_text("#strip .state") == "alarm"
        assert page.locator("#events i").count() == 0  # a detector's words are text
        titles = page.locator(".chart h3").all_inner_texts()
        assert titles == ["loss", "sparsity", "curvature/sharpness"]
        legend = page.locator(".chart", has_text="curvature/sharpness").locator(".u-label").all_inner_texts()
        assert sorted(legend) == ["all", "step", "threshold"]
        over = page.locator(".chart", has_text="loss").first.locator(".u-over")
        over.scroll_into_view_if_needed()
        box = over.bounding_box()
        with page.expect_request(lambda request: "from=" in request.url) as zoom:
            page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40, steps=4)
            page.mouse.up()
        first, last = (int(part.partition("=")[2]) for part in zoom.value.url.split("&")[1:3])
        assert (first, last) == (pytest.approx(10_000, abs=100), pytest.approx(12_000, abs=100))
        with page.expect_response(lambda answer: answer.url.endswith("/operations")) as counted:
            page.select_option("#axis", "flops")
        # 10,000 dense steps of 2·3·10·100 operations, then 9,999 of half as many.
        assert counted.value.json() == {"x": [0, 10_000, 19_999], "y": [0, 6e7, 6e7 + 9_999 * 3e3]}
        wait_until(lambda: "FLOPs" in page.locator(".u-label").first.inner_text(), "the axis does not change")
        assert page.inner_text("#without") == ""
    finally:
        end(server)


def test_histograms_and_the_confusion_matrix_come_when_asked_for(live, page):
    server, address = served(live.parent)
    try:
        page.goto(address)
        page.get_by_role("link", name="<b>run", exact=True).click()
        page.wait_for_selector(".chart canvas")
        page.locator("form[data-kind=inspect] button").click()
        page.wait_for_selector("#asked .applied")
        page.locator("#arrays summary").click()
        choices = page.locator("#array")
        wait_until(lambda: "confusion/validation" in choices.inner_text(), "no confusion matrix")
        for kind in ("weights", "gradients", "activations"):
            assert f"histogram/{kind}/" in choices.inner_text()
        choices.select_option("confusion/validation")
        wait_until(lambda: "rows are true" in page.inner_text("#picture"), "no picture")
        first = page.evaluate(
            "[...document.querySelectorAll('#array option')].find(o => o.value.startsWith('histogram')).value"
        )
        choices.select_option(first)
        wait_until(lambda: "not drawn" in page.inner_text("#picture"), "no histogram")
    finally:
        end(server)


NAMES = ("toString", "__proto__", "constructor", "hasOwnProperty/x", "valueOf", "$x^2$")


def test_series_of_any_name_are_drawn_and_damaged_rows_are_said(written, page):
    for name in NAMES:
        for step in range(3):
            written.measure(step, name, float(step), layer="toString")
    written.flush()
    connection = sqlite3.connect(written.path)
    connection.execute("INSERT INTO events (step, kind, version, body) VALUES (1, 'Intervention', 1, '{')")
    connection.commit()
    connection.close()
    server, address = served(written.path.parent.parent)
    try:
        page.goto(address)
        page.get_by_role("link", name="written", exact=True).click()
        page.wait_for_selector(".chart canvas")
        titles = page.locator(".chart h3").all_inner_texts()
        assert set(NAMES) <= set(titles)
        assert page.locator(".chart canvas").count() == len(titles)
        wait_until(lambda: "left out" in page.inner_text("#strip"), "damaged rows are not said")
        assert page.is_hidden("#problem")
    finally:
        end(server)
