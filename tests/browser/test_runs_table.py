"""The list of runs in a real browser, over runs that were really trained."""

from __future__ import annotations

import json
import re

import pytest

from browsers import MARKS, wait_until
from surgecollapse.record import RunStore

pytestmark = MARKS

RUNS = {"gmp-s0", "gmp-s1", "no_op-s0", "no_op-s1"}


def names(page):
    return page.locator("#runs .open").all_inner_texts()


def shown(page, expected):
    wait_until(lambda: sorted(names(page)) == sorted(expected), f"expected {expected}")


def cell(page, run, column):
    index = page.locator("#heads th").all_inner_texts().index(column)
    return page.locator("#runs tr", has_text=run).first.locator("td").nth(index).inner_text()


def summary(root, run):
    with RunStore(root / run / "run.db") as store:
        return store.get("summary")


def test_the_table_has_the_figures_of_the_record(trained, page, open_page):
    open_page(trained)
    shown(page, RUNS)
    for run in RUNS:
        said = summary(trained, run)
        assert cell(page, run, "accuracy") == f"{said['accuracy']:.2%}"
        assert cell(page, run, "policy") == said["policy"]
        assert cell(page, run, "seed") == str(said["seed"])
        assert cell(page, run, "step") == "120"
        assert cell(page, run, "status") == "finished"
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", cell(page, run, "started"))
    assert cell(page, "gmp-s0", "sparsity / target") == "80.0% / 80.0%"
    assert cell(page, "no_op-s0", "sparsity / target") == "0.0%"


def test_columns_sort_both_ways_and_the_address_keeps_it(trained, page, open_page):
    open_page(trained)
    shown(page, RUNS)
    expected = sorted(RUNS, key=lambda run: summary(trained, run)["accuracy"])
    head = page.locator("#heads th", has_text="accuracy")
    head.locator("button").click()
    accuracies = [cell(page, run, "accuracy") for run in names(page)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(page)[0] == expected[0]
    page.reload()
    shown(page, RUNS)
    assert names(page)[0] == expected[0]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("gmp", {"gmp-s0", "gmp-s1"}),
        ("gmp seed=1", {"gmp-s1"}),
        ("sparsity<50%", {"no_op-s0", "no_op-s1"}),
        ("policy:no_op seed:0", {"no_op-s0"}),
        ("status:failed", set()),
    ],
)
def test_the_search_keeps_what_has_all_words(trained, page, open_page, words, left):
    open_page(trained)
    shown(page, RUNS)
    page.locator("#search").fill(words)
    shown(page, left)
    assert page.inner_text("#count").startswith(f"{len(left)} of 4 runs")


def test_seeds_of_a_configuration_are_one_row_with_mean_and_interval(trained, page, open_page):
    open_page(trained)
    shown(page, RUNS)
    page.select_option("#group", "seeds")
    assert page.locator("#runs tr.group").count() == 2
    found = [summary(trained, f"gmp-s{seed}")["accuracy"] for seed in (0, 1)]
    # Of two values, Student's interval is 12.706 · |a − b| / 2, since s/√2 = |a − b|/2.
    half = 12.706 * abs(found[0] - found[1]) / 2
    row = page.locator("#runs tr.group", has_text="gmp")
    assert row.locator("td").nth(2).inner_text() == f"{sum(found) / 2:.2%} ± {half:.2%}"
    row.locator("button").click()
    assert page.locator("#runs tr", has_text="gmp-s1").count() == 1
    row.locator("a").click()
    page.wait_for_selector(".chart canvas")
    legend = page.locator(".chart", has_text="loss/validation").first.locator(".u-label")
    wait_until(lambda: any("(mean of 2)" in text for text in legend.all_inner_texts()), "no mean over seeds")


def test_the_key_c_compares_what_was_just_ticked(trained, page, open_page):
    open_page(trained)
    shown(page, RUNS)
    for run in ("gmp-s0", "no_op-s0"):
        page.get_by_label(f"compare {run}").check()
    page.keyboard.press("c")
    page.wait_for_selector(".chart canvas")
    assert page.locator("#title .named").all_inner_texts() in (["gmp-s0", "no_op-s0"], ["no_op-s0", "gmp-s0"])
    page.locator("#several summary").click()
    wait_until(lambda: page.locator("#differences tbody tr").count() > 0, "no difference of configurations")
    settings = page.locator("#differences tbody th").all_inner_texts()
    assert "method.policy" in settings
    assert "run.seed" not in settings


def test_a_run_has_one_color_in_the_list_and_in_charts(trained, page, open_page):
    open_page(trained)
    shown(page, RUNS)
    swatch = "e => getComputedStyle(e).backgroundColor"
    listed = page.locator("#runs tr", has_text="gmp-s1").locator(".swatch").evaluate(swatch)
    page.get_by_role("link", name="gmp-s1", exact=True).click()
    page.wait_for_selector(".chart canvas")
    assert page.locator("#title .swatch").evaluate(swatch) == listed
    page.locator("#find").fill("gap/loss")
    marker = page.locator(".chart .u-marker").nth(1)
    wait_until(lambda: marker.count() == 1, "no chart")
    assert marker.evaluate("e => getComputedStyle(e).borderTopColor") == listed


def test_notes_tags_and_a_title_are_kept_beside_the_run(folder, page, open_page):
    open_page(folder)
    shown(page, RUNS)
    page.get_by_label("notes of gmp-s0").click()
    page.get_by_label("Title").fill("<i>the best</i>")
    page.get_by_label("Tags").fill("best, paper, best")
    page.get_by_label("Notes", exact=True).fill("keep this one")
    page.get_by_role("button", name="Save").click()
    wait_until(lambda: "<i>the best</i>" in names(page), "the title is not shown")
    kept = json.loads((folder / "gmp-s0" / "notes.json").read_text())
    assert kept == {"title": "<i>the best</i>", "tags": ["best", "paper"], "text": "keep this one"}
    page.locator("#search").fill("tag:paper")
    shown(page, {"<i>the best</i>"})
    assert page.locator("#runs i").count() == 0


def test_archived_runs_are_hidden_and_deleted_ones_lie_in_the_trash(folder, page, open_page):
    open_page(folder)
    shown(page, RUNS)
    page.get_by_label("compare gmp-s0").check()
    page.locator("#archive").click()
    page.locator("#notes").get_by_role("button", name="Archive").click()
    shown(page, RUNS - {"gmp-s0"})
    page.locator("#archived").check()
    shown(page, RUNS)
    page.get_by_label("compare gmp-s0").uncheck()
    page.get_by_label("compare no_op-s1").check()
    page.locator("#delete").click()
    assert "no_op-s1" in page.inner_text("#notes")
    page.locator("#notes").get_by_role("button", name="Delete").click()
    shown(page, RUNS - {"no_op-s1"})
    assert (folder / ".trash" / "no_op-s1" / "run.db").is_file()
    assert not (folder / "no_op-s1").exists()


def test_an_empty_folder_says_how_to_make_a_run_and_shows_no_error(tmp_path, page, open_page):
    (tmp_path / "runs").mkdir()
    open_page(tmp_path / "runs")
    page.wait_for_selector("#empty")
    assert "surgecollapse run digits" in page.inner_text("#empty")
    assert page.is_hidden("#problem")
    page.wait_for_timeout(2500)  # the list comes again after two seconds
    assert page.is_hidden("#problem")


def test_settings_are_drawn_against_results(trained, page, open_page):
    open_page(trained, "#/?view=parameters")
    page.wait_for_selector("#scatter circle")
    assert page.locator("#parallel polyline").count() == 4
    assert page.locator("#px option").all_inner_texts()[:1] == ["method.policy"]
    page.locator("#search").fill("gmp")
    wait_until(lambda: page.locator("#scatter circle").count() == 2, "the search does not reach the plot")
    page.locator("#scatter a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".chart canvas")


def test_the_keys_are_listed(trained, page, open_page):
    open_page(trained)
    shown(page, RUNS)
    page.keyboard.press("?")
    assert page.locator("#help kbd").count() >= 10
    page.keyboard.press("Escape")
    assert page.is_hidden("#help")
