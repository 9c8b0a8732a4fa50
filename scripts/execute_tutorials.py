"""Run the tutorials that ask for it while the documentation is built, and put what each block prints below it.

A script of mkdocs-gen-files. A block that fails fails the build.
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import mkdocs_gen_files

PAGES = ("tutorials/watching-a-net-grok.md",)
_BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def executed(text: str) -> str:
    """The page with the output of every Python block, run from top to bottom in one namespace."""
    namespace: dict[str, object] = {"__name__": "__main__"}

    def run(block: re.Match[str]) -> str:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(block[1], "tutorial", "exec"), namespace)
        return block[0] + (f"\n```text\n{printed.getvalue()}```\n" if printed.getvalue() else "")

    return _BLOCK.sub(run, text)


for page in PAGES:
    source = Path(__file__).parents[1] / "docs" / page
    with mkdocs_gen_files.open(page, "w") as out:
        out.write(executed(source.read_text(encoding="utf-8")))
