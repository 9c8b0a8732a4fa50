"""Run analyses on run directories, and write results, pictures and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.errors import ConfigError, unknown
from surgecollapse.plugins import find, offered
from surgecollapse.record.whole_files import write_whole
from surgecollapse.report.analyses.loaded_run import LoadedRun
from surgecollapse.report.analyses.registry import ANALYSES, TITLES
from surgecollapse.report.analyses.result import PartlyApplicable
from surgecollapse.torch_utils.threads import torch_threads

if TYPE_CHECKING:
    from surgecollapse.report.analyses.result import AnalysisResult
    from surgecollapse.report.markup import Section

Tell = Callable[[str, int, int], None]
"""Called with what is done next, and how many of how many parts are done."""


@dataclass(frozen=True)
class Analyzed:
    """What was found and written."""

    page: Path
    findings: tuple[AnalysisResult, ...]
    skipped: tuple[tuple[str, str], ...]
    """Names of analyses without a result, or without one of some runs, with the reason."""
    diverged: tuple[str, ...] = ()
    """Runs whose net holds values that are not finite, with the parameters."""


def analyze(
    runs: Sequence[str | Path],
    what: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    samples: int = 512,
    times: int = 40,
    tell: Tell = lambda _what, _done, _total: None,
    parts: Mapping[str, str] | None = None,
) -> Analyzed:
    """Analyze runs from their checkpoints, and write a JSON file and a PNG for each result and one page of all.

    Args:
        runs: run directories; what compares nets compares the first with the others.
        what: names of :data:`~surgecollapse.report.analyses.registry.ANALYSES`, or of analyses that packages registered
            under the entry-point group ``surgecollapse.analyses``; by default all of the first
            that have something to say.
        out: folder; by default ``analysis`` in the run, or beside the runs if there are several.
        samples: rows of the data that nets are shown.
        times: most checkpoints of a run that are looked at, evenly spaced.
        tell: who is shown how it goes.
        parts: of runs of one's own loop, see :func:`~surgecollapse.lab.training.evaluation.load_checkpointed_run`.

    Returns:
        The page and what is on it.

    Raises:
        FileNotFoundError: if a directory holds no run.
        ValueError: for an unknown analysis, or if nothing was found at all.
        ModuleNotFoundError: without matplotlib.
        OSError: if the folder cannot be written.
    """
    chosen = _checked(runs, what, samples, times)
    folders = [Path(run) for run in runs]
    place = Path(out) if out is not None else (folders[0] if len(folders) == 1 else folders[0].parent) / "analysis"
    loaded = []
    for done, (folder, name) in enumerate(zip(folders, _names(folders), strict=True)):
        tell(f"reading {name}", done, len(folders) + len(chosen))
        loaded.append(LoadedRun(folder, name, samples=samples, times=times, parts=parts))
    findings: dict[str, list[AnalysisResult]] = {}
    skipped: list[tuple[str, str]] = []
    for done, name in enumerate(chosen):
        tell(name, len(folders) + done, len(folders) + len(chosen))
        try:
            with torch_threads(loaded[0].config.run.threads):
                findings[name] = find("analyses", "analysis", name, ANALYSES)(loaded)
        except PartlyApplicable as error:
            skipped.append((name, str(error)))
            if error.findings:
                findings[name] = error.findings
        except ValueError as error:
            skipped.append((name, str(error)))
    tell("writing", len(folders) + len(chosen), len(folders) + len(chosen))
    if not findings:
        raise ConfigError("nothing to analyze: " + "; ".join(f"{name}: {reason}" for name, reason in skipped))
    page = _write(place, findings, skipped, loaded)
    broken = tuple(f"{run.name} has diverged: not finite are {', '.join(run.broken)}" for run in loaded if run.broken)
    return Analyzed(page, tuple(one for found in findings.values() for one in found), tuple(skipped), broken)


def _checked(runs: Sequence[str | Path], what: Sequence[str], samples: int, times: int) -> list[str]:
    if not runs:
        raise ConfigError(
            "no run given: name one or more run directories, as in `surgecollapse analyze runs/demo/plain`"
        )
    for name in what:
        valid = list(ANALYSES) if name in ANALYSES else [*ANALYSES, *offered("analyses")]
        if name not in valid:
            raise ConfigError(unknown("analysis", name, valid))
    if samples < 16 or times < 2:
        raise ConfigError(f"expected at least 16 samples and 2 times, got {samples} and {times}")
    return list(dict.fromkeys(what)) or list(ANALYSES)


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths that tell them apart.

    >>> _names([Path("a/plain"), Path("b/plain")]), _names([Path("a/plain"), Path("a/sparse")])
    (['a/plain', 'b/plain'], ['plain', 'sparse'])
    """
    whole = [folder.resolve().parts if folder.name in ("", "..") else folder.parts for folder in folders]
    for length in range(1, max(len(parts) for parts in whole) + 1):
        names = ["/".join(parts[-length:]) for parts in whole]
        if len(set(names)) == len(names):
            return names
    return [f"{parts[-1]} {index + 1}" for index, parts in enumerate(whole)]


def _write(
    place: Path,
    findings: dict[str, list[AnalysisResult]],
    skipped: Sequence[tuple[str, str]],
    loaded: Sequence[LoadedRun],
) -> Path:
    import matplotlib
    from cycler import cycler

    from surgecollapse.report.markup import page_html
    from surgecollapse.report.style import LINES, STYLE, save_png

    lines = LINES[:-1]
    cycle = cycler(color=[color for color, _ in lines])
    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": cycle}):
        sections = [_section(name, found) for name, found in findings.items()]
        names = " and ".join(run.name for run in loaded) if len(loaded) < 3 else f"{len(loaded)} runs"
        lead = f"Analysis of {names}, from checkpoints."
        for run in loaded:
            if run.broken:
                lead += f" {run.name} has diverged: not finite are {', '.join(run.broken)}."
        if skipped:
            lead += " Not shown: " + "; ".join(f"{name} ({reason})" for name, reason in skipped) + "."
        foot = "Made from " + ", ".join(f"`{run.directory}`" for run in loaded) + ". Pictures by matplotlib."
        tasks = ", ".join(dict.fromkeys(run.config.data.label for run in loaded))
        text = page_html(f"surgecollapse analysis: {tasks}", lead, sections, foot)
    page = place / "index.html"
    write_whole(page, text)
    for part, found in zip(sections, findings.values(), strict=True):
        for picture, one in zip(part.pictures, found, strict=True):
            values = {"subject": one.subject, "title": one.title, **one.result.to_dict()}
            content = json.dumps(_without_nan(values), ensure_ascii=False, allow_nan=False)
            (place / f"{one.stem}.json").write_text(content + "\n", encoding="utf-8")
            save_png(picture.figure, place / f"{one.stem}.png")
    return page


def _section(name: str, found: Sequence[AnalysisResult]) -> Section:
    from surgecollapse.report.markup import Section, Table
    from surgecollapse.report.style import Picture

    rows = [[one.title, one.said] for one in found]
    heads = ("finding", "outcome")
    table = Table(heads=heads, rows=rows, left=heads, label=TITLES.get(name, name))
    part = Section(name, TITLES.get(name, name), before=table)
    for one in found:
        part.add(Picture(one.stem, one.title, one.caption, one.result.plot(), wide=one.wide), "")
    return part


def _without_nan(value: Any) -> Any:
    """The same with ``null`` for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
