"""Run the tutorials while the documentation is built, put the output of each block below it, and write the notebook.

A script of mkdocs-gen-files. A block that fails fails the build.
"""

from __future__ import annotations

import ast
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import mkdocs_gen_files

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("start/own-loop.md", "start/notebook.md", "start/watch-a-net-grok.md")
NOTEBOOK = ("start/notebook.md", "start/quickstart.ipynb")
_BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def run(code: str, namespace: dict[str, Any]) -> tuple[str, Any]:
    """What a block prints, and the value of its last line if that is an expression."""
    tree, printed, value = ast.parse(code), io.StringIO(), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(printed):
        exec(compile(tree, "tutorial", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "tutorial", "eval"), namespace)
    return printed.getvalue(), value


def executed(page: str) -> str:
    """The page with the output of every Python block, run from top to bottom in one namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    pictures = 0

    def with_output(block: re.Match[str]) -> str:
        nonlocal pictures
        printed, value = run(block[1], namespace)
        shown = block[0] + (f"\n```text\n{printed}```\n" if printed else "")
        if hasattr(value, "savefig"):
            pictures += 1
            name = f"{Path(page).stem}-{pictures}.png"
            with mkdocs_gen_files.open(str(Path(page).with_name(name)), "wb") as out:
                value.savefig(out, format="png", dpi=110)
            shown += f"\n![Output of the cell]({name})\n"
        return shown

    return _BLOCK.sub(with_output, (DOCS / page).read_text(encoding="utf-8"))


def as_notebook(text: str) -> dict[str, Any]:
    """A page as a notebook without outputs: prose and Python blocks in turn."""
    cells: list[dict[str, Any]] = []
    for index, part in enumerate(_BLOCK.split(text)):
        if not part.strip():
            continue
        lines = part.strip().splitlines(keepends=True)
        if index % 2:
            cells.append({"cell_type": "code", "metadata": {}, "source": lines, "outputs": [], "execution_count": None})
        else:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": lines})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


for tutorial in PAGES:
    text = executed(tutorial)
    with mkdocs_gen_files.open(tutorial, "w") as out:
        out.write(text)
source, target = NOTEBOOK
with mkdocs_gen_files.open(target, "w") as out:
    json.dump(as_notebook((DOCS / source).read_text(encoding="utf-8")), out, ensure_ascii=False, indent=1)
