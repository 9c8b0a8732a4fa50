"""axe-core finds no violation on any view, light and dark, wide and narrow; our own checks run without it.

axe-core is no dependency of the project: ``npm pack axe-core``, unpack it, and name its ``axe.min.js`` in
``SURGECOLLAPSE_AXE``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from browsers import MARKS, wait_until

AXE = os.environ.get("SURGECOLLAPSE_AXE")
pytestmark = [
    *MARKS,
    pytest.mark.skipif(AXE is None, reason="no axe-core: npm pack axe-core, SURGECOLLAPSE_AXE=…/axe.min.js"),
]
RUN = "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(" \
    "one => one.id + ': ' + one.nodes.map(node => node.html.slice(0, 120)).join(' | ')))"  # fmt: skip


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(trained, tmp_path, page, open_page, theme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    source, found = Path(AXE).read_text(encoding="utf-8"), {}

    def look(view):
        page.evaluate(source)
        if violations := page.evaluate(RUN):
            found[view] = violations

    open_page(trained)
    page.wait_for_selector("#runs a")
    look("list")
    page.select_option("#group", "seeds")
    page.wait_for_selector("tr.group")
    look("groups")
    page.locator("#parameters").click()
    page.wait_for_selector("#parallel svg")
    look("parameters")
    page.keyboard.press("?")
    look("keys")
    page.locator("#help .close").click()
    ids = page.evaluate("async () => (await (await import('/server.js')).read('runs')).runs.map(run => run.id)")
    for view, shown in (("run", ids[:1]), ("several", ids[:3])):
        page.evaluate("where => { location.hash = where }", "#/" + ",".join(shown))
        page.wait_for_selector(".chart canvas")
        wait_until(lambda: page.inner_text("#link") == "connected", "the run is not loaded")
        page.evaluate("document.querySelectorAll('main details:not(.menu)').forEach(one => { one.open = true })")
        look(view)
    page.evaluate("where => { location.hash = where }", "#/" + ids[0])
    page.locator("#note").click()
    page.wait_for_selector("#notes[open]")
    look("notes")
    (tmp_path / "none").mkdir()
    open_page(tmp_path / "none")
    page.wait_for_selector("#empty:not([hidden])")
    look("empty folder")
    page.evaluate("sessionStorage.clear()")
    page.goto(page.url.split("#")[0] + "#/")
    page.reload()
    page.wait_for_selector("#ask:not([hidden])")
    look("token")
    assert not found, json.dumps(found, indent=1)
