"""Write the pages of studies from their landed rows: ``python scripts/study_pages.py``.

Rows stand in ``benchmarks/results/studies/NAME/rows.jsonl``; ``surgecollapse study NAME --out`` that folder adds to
them. Pages go to ``docs/studies``, plots to ``docs/images``.
"""

from __future__ import annotations

from pathlib import Path

from surgecollapse.studies import registered
from surgecollapse.studies.page import draw, markdown
from surgecollapse.studies.session import rows_of, runs_of

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "results" / "studies"
PAGES = ROOT / "docs" / "studies"


def page_of(name: str) -> str:
    """The page of a study, from what is landed."""
    study = registered()[name]
    rows, runs = landed(name)
    command = f"surgecollapse study {name} --out benchmarks/results/studies/{name}"
    image = f"../images/study-{name}.svg" if rows else ""
    return markdown(study, rows, runs, image=image, command=command)


def landed(name: str) -> tuple[list[dict[str, object]], int]:
    """The rows of a study that are landed, of any version, in the order of its runs; and the number of all its runs."""
    found = rows_of(ROWS / name)
    runs = runs_of(registered()[name], found)
    return [dict(row) for run in runs if (row := found.get(run.key) or found.earlier(run.key))], len(runs)


def main() -> None:
    """All pages and plots."""
    PAGES.mkdir(exist_ok=True)
    for name, study in registered().items():
        (PAGES / f"{name}.md").write_text(page_of(name), encoding="utf-8")
        draw(study, landed(name)[0], ROOT / "docs" / "images" / f"study-{name}.svg")


if __name__ == "__main__":
    main()
