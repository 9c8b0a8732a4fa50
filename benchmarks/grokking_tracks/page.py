"""The page of grokking records: rows of one track and method, their statistics, and Markdown."""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from _harness import RESULTS, read_rows

LEAST, SIGNIFICANT, FAILED = 10, 0.05, math.inf
_OWN = ("seed", "data_dir", "device", "threads")
TITLES = {
    "multiplication": "x·y mod 97",
    "addition": "x + y mod 97",
    "subtraction": "x − y mod 97",
    "division": "x/y mod 97",
    "mixed": "x + y, x − y, x·y and x/y mod 97 in one set",
    "quadratic": "x² + xy + y² mod 97",
    "s5": "S5, products of permutations of five things",
    "mlp": "x + y mod 113, Prieto's MLP",
    "product": "x·y mod 113, Prieto's MLP",
}
NETS = {
    "mixed": "Grokfast's two-layer decoder, batch 2,048, half of 37,442 questions",
    "s5": "Grokfast's two-layer decoder, batch 512, half of 14,400 pairs",
    "mlp": "226-200-200-113 without biases, full batch, 40% of 12,769 pairs",
    "product": "226-200-200-113 without biases, full batch, 40% of 12,656 pairs",
}
NET = "Grokfast's two-layer decoder, batch 512, half of all pairs"
METHOD_TITLES = {
    "one-setting": "**the one setting**: Muon, averaged weights, weak Grokfast",
    "adamw": "tuned AdamW",
    "muon": "Muon",
    "clip-to-grok": "Clip to Grok (Lion)",
    "egd": "Adam with egalitarian descent",
    "spherical": "the one setting on the sphere",
    "record": "Muon, averaged weights",
    "record-125": "Muon, tokens too",
    "ema": "Grokfast-EMA, the paper's setting",
    "ma": "Grokfast-MA, the paper's setting",
    "baseline": "Adam, no weight decay",
    "stablemax": "StableMax, float64",
    "plain": "AdamW, no weight decay",
    "float64": "AdamW, loss in float64",
}
PUBLISHED = {
    "multiplication": [
        ("Adam (Grokfast's baseline)", 39_890, 1, "2405.20233"),
        ("Grokfast-EMA", 910, 1, "2405.20233"),
        ("Grokfast-MA", 790, 1, "2405.20233"),
        ("Clip to Grok", 535, 100, "cliptogrok"),
    ],
    "addition": [("Clip to Grok", 570, 100, "cliptogrok")],
    "subtraction": [("Clip to Grok", 775, 100, "cliptogrok")],
    "division": [("Clip to Grok", 730, 100, "cliptogrok")],
    "mixed": [("Clip to Grok", 3_090, 100, "cliptogrok")],
    "s5": [("Clip to Grok, batch 960 or 2,048", 1_348, 100, "cliptogrok")],
    "mlp": [("⊥AdamW", 300, 1, "2501.04697")],
}
"""Method, median steps to 95%, seeds, source."""
EARLIER = {
    ("multiplication", "record with Grokfast"): "one-setting",
    ("division", "record with Grokfast"): "one-setting",
}
"""Rows of ``benchmarks/grokking.py`` that had the settings of a method here."""
CHOSEN_ON = {("multiplication", "one-setting"): range(10)}
"""Seeds that were seen when a setting was chosen: they are left out."""
LEFT_OUT = ("ema's weight decay, no filter", "record without ⊥Grad", "stablemax, float32")


@dataclass(frozen=True)
class Series:
    """All runs of one method on one track."""

    track: str
    method: str
    reached: Mapping[int, float]
    """Steps to 95% sustained, by seed; ``inf`` for a failure."""
    seconds: float | None
    """Median."""
    config: Mapping[str, Any]
    command: str
    limit: int

    @property
    def id(self) -> str:
        """Names the row on the command line."""
        text = json.dumps([self.track, self.method, self.config], sort_keys=True, default=str)
        return sha256(text.encode()).hexdigest()[:8]

    @property
    def values(self) -> list[float]:
        """In ascending order."""
        return sorted(self.reached.values())

    @property
    def median(self) -> float:
        """Where half of the runs failed, infinite."""
        return statistics.median_high(self.values) if FAILED in self.values else statistics.median(self.values)

    @property
    def failures(self) -> int:
        """Runs that did not get there."""
        return sum(value == FAILED for value in self.values)

    @property
    def title(self) -> str:
        """As the page has it."""
        return METHOD_TITLES.get(self.method, self.method)


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Interval of the median from order statistics: it needs no distribution. ``None`` where there are too few values.

    >>> median_interval(range(1, 11))
    (2, 9)
    >>> median_interval([1, 2, 3]) is None
    True
    """
    n, ordered = len(values), sorted(values)
    tail, below = (1 - level) / 2, 0.0
    rank = 0
    for k in range(n):
        below += math.comb(n, k) * 0.5**n
        if below > tail:
            break
        rank = k + 1
    return None if rank == 0 else (ordered[rank - 1], ordered[n - rank])


def p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """One-sided Mann–Whitney U test that ours takes fewer steps; failures rank last.

    >>> p_value([1, 2, 3, 4], [5, 6, 7, 8]) < 0.05
    True
    """
    from scipy.stats import mannwhitneyu

    most = 1 + max([value for value in (*ours, *theirs) if value != FAILED], default=0)
    a, b = ([min(value, most) for value in values] for values in (ours, theirs))
    return float(mannwhitneyu(a, b, alternative="less").pvalue)


def collected(rows: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Series of the rows of ``grokking_records.py``, joined with those of ``grokking.py`` of the same settings."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["track"], row["method"]), []).append(row)
    made = {key: _series(key, own) for key, own in found.items()}
    for track in ("multiplication", "division", "mlp", "product"):
        for series in _earlier(track):
            key = (series.track, series.method)
            made[key] = _joined(made[key], series) if key in made else series
    return list(made.values())


def _series(key: tuple[str, str], rows: list[Mapping[str, Any]]) -> Series:
    reached = {row["seed"]: FAILED if row["reached"] is None else float(row["reached"]) for row in rows}
    config = {name: value for name, value in rows[0]["config"].items() if name not in _OWN}
    first = min(reached)
    return Series(
        *key,
        reached,
        statistics.median(row["seconds"] for row in rows),
        config,
        f"python benchmarks/grokking_records.py --track {key[0]} --method {key[1]} --first-seed {first} "
        f"--seeds {max(reached) - first + 1}",
        int(config["steps"]),
    )


def _earlier(track: str) -> Iterator[Series]:
    from grokking import ARMS

    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(RESULTS / "grokking" / f"{track}.jsonl"):
        by_method.setdefault(row["method"], []).append(row)
    for name, rows in by_method.items():
        if name in LEFT_OUT or name not in ARMS[track]:
            continue
        method = EARLIER.get((track, name), name)
        skipped = CHOSEN_ON.get((track, method), ())
        own = [row for row in rows if row["seed"] not in skipped]
        yield Series(
            track,
            method,
            {row["seed"]: FAILED if row["t_gen_sustained"] is None else float(row["t_gen_sustained"]) for row in own},
            None,
            ARMS[track][name],
            f'python benchmarks/grokking.py --arm {track} --methods "{name}" --seeds {1 + max(r["seed"] for r in own)}',
            max(row["steps"] for row in rows),
        )


def _joined(new: Series, old: Series) -> Series:
    """The new rows and the earlier ones of the same settings; the configuration is that of the new rows."""
    command = f"{new.command}\n{old.command}"
    return Series(new.track, new.method, {**old.reached, **new.reached}, new.seconds, new.config, command, new.limit)


def doubts(series: Series, before: Series | None) -> list[str]:
    """Why a row may not hold."""
    found = [f"under {LEAST} seeds"] if len(series.reached) < LEAST else []
    if series.failures:
        found.append(f"{series.failures} of {len(series.reached)} failed")
    if before is not None and p_value(series.values, before.values) >= SIGNIFICANT:
        found.append(f"p ≥ {SIGNIFICANT:g}")
    return found


def shown(value: float, limit: int) -> str:
    """A number of steps."""
    return f"> {limit:,}" if value == FAILED else f"{value:,.0f}"


def table(track: str, all_series: Sequence[Series]) -> Iterator[str]:
    """The rows of one track, from the most steps to the fewest."""
    yield "| method | median steps | 95% interval | least–most | n | failures | p | seconds | id | doubts |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, steps, n, source in sorted(PUBLISHED.get(track, []), key=lambda row: -row[1]):
        place = (
            "https://github.com/NiftyliuS/cliptogrok" if source == "cliptogrok" else f"https://arxiv.org/abs/{source}"
        )
        yield f"| *published: [{name}]({place})* | {steps:,} | – | – | {n} | – | – | – | – | not run here |"
    before = None
    for series in sorted(
        (s for s in all_series if s.track == track), key=lambda s: (-s.median, -s.failures / len(s.reached), s.method)
    ):
        interval, p = median_interval(series.values), None
        if before is not None:
            p = p_value(series.values, before.values)
        cells = [
            series.title,
            shown(series.median, series.limit),
            "–" if interval is None else "–".join(shown(end, series.limit) for end in interval),
            "–".join(shown(end, series.limit) for end in (series.values[0], series.values[-1])),
            str(len(series.reached)),
            str(series.failures),
            "–" if p is None else ("< 0.0001" if p < 1e-4 else f"{p:.4f}"),
            "–" if series.seconds is None else f"{series.seconds:.1f}",
            f"`{series.id}`",
            "; ".join(doubts(series, before)) or "–",
        ]
        yield "| " + " | ".join(cells) + " |"
        before = series


def details(series: Series) -> Iterator[str]:
    """Command and configuration of one row, folded away."""
    yield from (
        f'<details markdown="1"><summary>{series.title.replace("**", "")}: command and configuration</summary>',
        "",
    )
    yield from ("```console", f"python benchmarks/grokking_records.py --rerun {series.id}", series.command, "```", "")
    steps = ", ".join(f"{seed}: {shown(value, series.limit)}" for seed, value in sorted(series.reached.items()))
    yield from (*textwrap.wrap(f"Steps by seed: {steps}.", 120), "")
    yield from ("```json", json.dumps(dict(series.config), sort_keys=True, default=str), "```", "", "</details>", "")


_HEAD = """# Grokking records

How many optimizer steps until a network generalizes: one fixed task, network and batch per track. The script
`benchmarks/grokking_records.py` writes this page from the rows in `benchmarks/results/grokking/`.

- **Steps**: the first of three evaluations in a row with at least 95% validation accuracy. Evaluations are five steps
  apart, ten or more with some baselines.
- **The one setting** is the same on all tracks of the transformer. It was frozen before the seeds here were run, and on
  tracks other than x·y nothing was tuned.
- **Interval**: of the median, from order statistics. A failure counts as later than every step.
- **p**: one-sided Mann–Whitney test against the row above.
- **Seconds**: of one processor thread, for the whole run with its evaluations.
- **Doubts**: fewer than 10 seeds, failures, or p of 0.05 or more.
- **Again**: `python benchmarks/grokking_records.py --rerun ID` trains the seeds of a row and compares.
- Published figures have larger validation sets: half of all pairs, here a quarter. Training sets have the same size.
- Rows without seconds come from `benchmarks/grokking.py`. Their configuration is an
  [experiment](howto/grokking-experiments.md) and what differs from it.
"""


_TAIL = """## Not on this page

Tracks and baselines without rows, and the commands that run them:

- **x² + xy + y²**: the one setting does not get there. On one seed of the search it had 52% after 300 steps and 84%
  after 1,000. It ended at 85% after 1,500, at most 86%.
- **Row bounds on the one setting** hurt: on x·y, x − y and x² + xy + y² accuracy was at most 6% when the search gave up
  (`benchmarks/results/grokking/records-search.jsonl`, one seed each).
- **The mixed track**: not run; a seed takes minutes with batches of 2,048.
- **Baselines** on addition, subtraction and S5, egalitarian descent and the sphere: not run.
- **MNIST with large weights** is in the [studies](studies.md#grokking-accelerators). Addition of three digits by a net
  of 10 million parameters: not run.

```console
python benchmarks/grokking_records.py --track quadratic mixed --seeds 10
python benchmarks/grokking_records.py --track addition subtraction s5 --method adamw muon clip-to-grok --seeds 10
python benchmarks/grokking_records.py --track multiplication --first-seed 20 --seeds 100
```
"""


def page(all_series: Sequence[Series]) -> str:
    """The whole page."""
    lines = [_HEAD]
    for track, title in TITLES.items():
        own = [series for series in all_series if series.track == track]
        if not own:
            continue
        lines += [f"## {title}", "", f"{NETS.get(track, NET)}.", "", *table(track, own), ""]
        for series in sorted(own, key=lambda s: s.median):
            lines += details(series)
    return "\n".join([*lines, _TAIL]).rstrip("\n") + "\n"
