"""The results as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from surgecollapse.compare.paired_statistics import Interval
from surgecollapse.compare.results import LEAST_SEEDS, MARGIN, SMALL_DENSE, Check, Panel, Score

_HEADINGS = (
    "method",
    "test accuracy, %",
    "minus {reference}",
    "mean density",
    "training FLOPs",
    "inference FLOPs",
    "seconds",
    "seeds",
    "tuned settings",
)
_TEXT_HEADINGS = ("next-character accuracy, %", "bits per character")
_EXPLAINED = f"""\
Test accuracy is the mean over seeds with Student's 95% interval; "minus" is the paired difference over common seeds, in
points, with its own interval. Mean density is that of the prunable weights over the training steps. FLOPs are
relative to dense, for an engine that skips zeros: multiplications by weights, 2 × density + density of the weight
gradient (1 where the dense gradient is taken for growth), over 3, summed over the steps and divided by those of
dense training. "Small dense" is a dense network with as many weights as the sparse one. Seconds are the mean of a run
on one thread of a shared machine, and noisy. Of a text, accuracy is the share of next characters that are guessed
right, on which differences and verdicts rest; fewer bits per character are better. Dense methods are the same runs at
every sparsity.
Verdicts: "at least as good" where the lower end of the paired 95% interval is above {MARGIN} points, "better" where it
is above 0, "worse" where its upper end is under 0; none under {LEAST_SEEDS} seeds. The best rival is chosen by its test
accuracy, which favors the rival."""


def markdown(panels: Sequence[Panel], title: str, facts: Sequence[str]) -> str:
    """All panels as Markdown tables, best method first, each with the checks of the reference.

    Args:
        panels: what is reported.
        title: heading.
        facts: lines on how it was run.
    """
    lines = [f"# {title}", ""]
    for fact in facts:
        lines += [fact, ""]
    for panel in panels:
        lines += [f"## {panel.entry.title}, {100 * panel.sparsity:g}% sparse", ""]
        lines += _rows([heading.format(reference=_title(panel)) for heading in _headings(panel)], _cells(panel))
        checks = panel.checks()
        if checks:
            headings = [_title(panel), "against", "difference, points", "seeds", "density ratio", "verdict"]
            lines += ["", *_rows(headings, (_checked(check) for check in checks))]
        lines.append("")
    return "\n".join([*lines, _EXPLAINED]) + "\n"


def _title(panel: Panel) -> str:
    ours = panel.of(panel.reference)
    return panel.reference if ours is None else ours.method.title


def _rows(headings: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    table = [list(headings), ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]


def _of_text(panel: Panel) -> bool:
    return any(score.bits_per_character is not None for score in panel.scores)


def _headings(panel: Panel) -> list[str]:
    """Of text, bits per character stand behind the accuracy; differences with the small dense net."""
    found = [*_HEADINGS[:1], *(_TEXT_HEADINGS if _of_text(panel) else _HEADINGS[1:2]), *_HEADINGS[2:3]]
    return [*found, *(["minus small dense"] if panel.of(SMALL_DENSE) else []), *_HEADINGS[3:]]


def _cells(panel: Panel) -> Iterator[list[str]]:
    reference, of_text = panel.of(panel.reference), _of_text(panel)
    for score in sorted(panel.scores, key=lambda score: -score.accuracy.mean):
        own = score is reference
        paired = None if reference is None or own else score.minus(reference)
        small = panel.of(SMALL_DENSE)
        beside = None if small is None or small is score else score.minus(small)
        yield [
            f"**{score.method.title}**" if own else score.method.title,
            plus_minus(score.accuracy),
            *([plus_minus(bits, digits=3) if (bits := score.bits_per_character) else "–"] if of_text else []),
            "–" if paired is None else plus_minus(paired[0], sign=True),
            *([] if small is None else ["–" if beside is None else plus_minus(beside[0], sign=True)]),
            f"{score.mean('mean_density'):.3f}",
            f"{score.training_flops(panel.entry):.3f}",
            f"{score.mean('flops_inference'):.3f}",
            f"{score.mean('seconds'):.1f}",
            str(len(score.rows)),
            describe(score.settings),
        ]


def _checked(check: Check) -> list[str]:
    return [
        check.what,
        check.other.method.title,
        plus_minus(check.difference, sign=True),
        str(check.seeds),
        f"{check.density_ratio:.2f}",
        check.verdict,
    ]


def plus_minus(interval: Interval, *, sign: bool = False, digits: int = 2) -> str:
    """Mean and half-width, by default with two decimals.

    >>> plus_minus(Interval(1.0, 0.25), sign=True), plus_minus(Interval(70.125, None))
    ('+1.00 ± 0.25', '70.12')
    """
    text = f"{interval.mean:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "−") + ("" if interval.half is None else f" ± {interval.half:.{digits}f}")


def describe(settings: Mapping[str, Any]) -> str:
    """Tuned settings in one short line.

    >>> describe({"dropout": 0.1, "policy_options": {"at": 0.5}}), describe({})
    ('dropout 0.1, at 0.5', '–')
    """
    flat = {key: value for key, value in settings.items() if key != "policy_options"}
    flat |= settings.get("policy_options", {})
    return ", ".join(f"{key} {value}" for key, value in flat.items()) or "–"


def as_csv(panels: Sequence[Panel]) -> str:
    """All panels in one table, full precision; ``low`` and ``high`` are ends of 95% intervals, empty if unknown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(_COLUMNS), lineterminator="\n")
    writer.writeheader()
    for panel in panels:
        for score in panel.scores:
            writer.writerow(_record(panel, score))
    return text.getvalue()


_COLUMNS = (
    *("entry", "sparsity", "method", "seeds", "accuracy", "accuracy_low", "accuracy_high"),
    *("reference", "difference", "difference_low", "difference_high", "common_seeds"),
    *("small_dense_difference", "small_dense_difference_low", "small_dense_difference_high"),
    *("mean_density", "sparsity_reached", "flops_training", "flops_inference", "seconds"),
    *("accuracy_validation", "bits_per_character", "bits_per_character_low", "bits_per_character_high", "tuned"),
)


def _record(panel: Panel, score: Score) -> dict[str, Any]:
    reference = panel.of(panel.reference)
    paired = None if reference is None or reference is score else score.minus(reference)
    small = panel.of(SMALL_DENSE)
    beside = None if small is None or small is score else score.minus(small)
    names = ("mean_density", "sparsity_reached", "flops_inference", "seconds", "accuracy_validation")
    return {
        "entry": panel.entry.label,
        "sparsity": panel.sparsity,
        "method": score.method.name,
        "seeds": len(score.rows),
        "reference": panel.reference,
        "common_seeds": "" if paired is None else paired[1],
        **_ends("accuracy", score.accuracy),
        **_ends("difference", None if paired is None else paired[0]),
        **_ends("small_dense_difference", None if beside is None else beside[0]),
        "flops_training": round(score.training_flops(panel.entry), 6),
        **_ends("bits_per_character", score.bits_per_character),
        **{name: round(score.mean(name), 6) for name in names},
        "tuned": json.dumps(score.settings),
    }


def _ends(name: str, interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return {}
    ends = {name: round(interval.mean, 4)}
    if interval.half is not None:
        ends |= {f"{name}_low": round(interval.low, 4), f"{name}_high": round(interval.high, 4)}
    return ends
