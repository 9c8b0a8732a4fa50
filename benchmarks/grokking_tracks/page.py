"""The page of grokking records: rows of one track and method, their statistics, and Markdown."""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from _harness import RESULTS, command_lines, json_lines, read_rows

from grokking_tracks.rows import config_of

LEAST, SIGNIFICANT, FAILED = 10, 0.05, math.inf
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
    "mnist": "1,000 digits of MNIST, weights × 8",
    "digits-full": "addition of three digits, 10.6 million parameters",
    "digits-full-64": "addition of three digits, 10.6 million parameters, batch 64",
    "digits-small": "addition of three digits, 0.4 million parameters",
}
_SUMS = "10,000 pairs; sums are right in all digits, evaluated every 25 steps"
NETS = {
    "mixed": "Grokfast's two-layer decoder, batch 2,048, half of 37,442 questions",
    "s5": "Grokfast's two-layer decoder, batch 512, half of 14,400 pairs",
    "mlp": "226-200-200-113 without biases, full batch, 40% of 12,769 pairs",
    "product": "226-200-200-113 without biases, full batch, 40% of 12,656 pairs",
    "mnist": "784-200-200-10, initial weights × 8, squared error, batch 200; 85% counts: so few digits allow no more",
    "digits-full": f"A GPT of six layers and width 384, batch 256, bfloat16 forward, {_SUMS}",
    "digits-full-64": f"A GPT of six layers and width 384, batch 64, {_SUMS}",
    "digits-small": f"A GPT of two layers and width 128, batch 128, {_SUMS}",
}
NET = "Grokfast's two-layer decoder, batch 512, half of all pairs"
METHOD_TITLES = {
    "one-setting": "**the one setting**: Muon, averaged weights, weak Grokfast",
    "adamw": "tuned AdamW",
    "muon": "Muon",
    "clip-to-grok": "Clip to Grok (Lion)",
    "egd": "Adam with egalitarian descent (EGD)",
    "orthograd": "⊥AdamW, no weight decay",
    "spherical": "AdamW on the sphere, no weight decay",
    "one-setting-spherical": "the one setting on the sphere",
    "record": "Muon, averaged weights",
    "record-125": "Muon, tokens too",
    "ema": "Grokfast-EMA, the paper's setting",
    "ma": "Grokfast-MA, the paper's setting",
    "baseline": "Adam, no weight decay",
    "stablemax": "StableMax, float64",
    "plain": "AdamW, no weight decay",
    "float64": "AdamW, loss in float64",
}
OWN_TITLES = {
    ("mlp", "record"): "⊥Grad and Muon",
    ("product", "record"): "⊥Grad and Muon",
    **{(track, "ema"): "tuned AdamW with Grokfast-EMA" for track in ("mlp", "product")},
    **{(track, "egd"): "tuned AdamW with egalitarian descent (EGD)" for track in ("mlp", "product")},
    ("mnist", "baseline"): "AdamW, weight decay 0.01",
    ("mnist", "ema"): "Grokfast-EMA, the paper's setting",
    ("mnist", "its weight decay, no filter"): "AdamW, weight decay 2",
    ("mnist", "filter, weight decay .01"): "Grokfast-EMA, weight decay 0.01",
    ("mnist", "record"): "Muon, weight decay 2",
    **{(f"digits-{size}", "adamw"): "AdamW, nanoGPT's settings" for size in ("small", "full-64", "full")},
    ("mnist", "egd"): "AdamW with egalitarian descent (EGD), weight decay 2",
}
"""Where a name stands for something else on a track."""
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
    "mnist": [("AdamW", 44_022, 1, "2405.20233"), ("Grokfast-EMA", 2_001, 1, "2405.20233")],
}
"""Method, median steps to 95%, seeds, source."""
EARLIER = {
    ("multiplication", "record with Grokfast"): "one-setting",
    ("division", "record with Grokfast"): "one-setting",
}
"""Rows of ``benchmarks/grokking.py`` that had the settings of a method here."""
CHOSEN_ON = {("multiplication", "one-setting"): range(10)}
"""Seeds that were seen when a setting was chosen: they are left out."""
LEFT_OUT = ("ema's weight decay, no filter", "record without ⊥Grad", "stablemax, float32", "filter, weight decay .01")
"""Ablations, which are in the reports."""


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
    failed_at: float | None = None
    """The best validation accuracy of a failure, where rows have it."""

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
        return OWN_TITLES.get((self.track, self.method)) or METHOD_TITLES.get(self.method, self.method)


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
    for track in ("multiplication", "division", "mlp", "product", "mnist"):
        for series in _earlier(track):
            key = (series.track, series.method)
            made[key] = _joined(made[key], series) if key in made else series
    return list(made.values())


def _series(key: tuple[str, str], rows: list[Mapping[str, Any]]) -> Series:
    reached = {row["seed"]: FAILED if row["reached"] is None else float(row["reached"]) for row in rows}
    config = config_of(rows)
    assert config is not None, f"no row of {key} has a configuration"
    first, (track, method) = min(reached), key
    script, options = "grokking_records.py --track", ""
    if track.startswith("digits-"):
        script, track, options = "digits.py --size", track.removeprefix("digits-"), f" --steps {config['steps']}"
    return Series(
        *key,
        reached,
        statistics.median(row["seconds"] for row in rows),
        config,
        f"python benchmarks/{script} {track} --method {method} --first-seed {first} --seeds {max(reached) - first + 1}"
        f"{options or _folder(track)}",
        int(config["steps"]),
        max((row["best"] for row in rows if row["reached"] is None and "best" in row), default=None),
    )


def _folder(track: str) -> str:
    """The option that rows of MNIST need: the folder of its files."""
    return " --data-dir MNIST" if track == "mnist" else ""


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
            f'python benchmarks/grokking.py --arm {track} --methods "{name}" --seeds {1 + max(r["seed"] for r in own)}'
            + _folder(track),
            max(row["steps"] for row in rows),
        )


def _joined(new: Series, old: Series) -> Series:
    """The new rows and the earlier ones of the same settings; the configuration is that of the new rows."""
    command = f"{new.command}\n{old.command}"
    return replace(new, reached={**old.reached, **new.reached}, command=command)


def comparable(series: Series, before: Series) -> bool:
    """Whether the failures of another row were given at least as many steps as these runs took."""
    longest = max((value for value in series.values if value != FAILED), default=0)
    return not before.failures or before.limit >= longest


def enough(series: Series, before: Series) -> bool:
    """Whether p can be below 0.05 at all: one order of all seeds of both must be that rare."""
    return math.comb(len(series.reached) + len(before.reached), len(series.reached)) * SIGNIFICANT > 1


def doubts(series: Series, before: Series | None) -> list[str]:
    """Why a row may not hold."""
    found = [f"under {LEAST} seeds"] if len(series.reached) < LEAST else []
    if series.failures:
        best = "" if series.failed_at is None else f", best {series.failed_at:.0%}"
        found.append(f"{series.failures} of {len(series.reached)} failed{best}")
    if before is not None and not comparable(series, before):
        found.append("failures above had fewer steps")
    elif before is not None and p_value(series.values, before.values) >= SIGNIFICANT:
        found.append(f"p ≥ {SIGNIFICANT:g}")
    return found


def shown(value: float, limit: int) -> str:
    """A number of steps."""
    return f"> {limit:,}" if value == FAILED else f"{value:,.0f}"


def _rank(series: Series) -> tuple[float, float, float, str]:
    """The most steps first; among those that mostly failed, the one that came the least far."""
    return -series.median, -series.failures / len(series.reached), series.failed_at or 0.0, series.method


def table(track: str, all_series: Sequence[Series]) -> Iterator[str]:
    """The rows of one track, from the most steps to the fewest."""
    yield "| method | median steps | 95% interval | least–most | n | failures | p | seconds | id | doubts |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, steps, n, source in sorted(PUBLISHED.get(track, []), key=lambda row: -row[1]):
        place = (
            "https://github.com/NiftyliuS/cliptogrok" if source == "cliptogrok" else f"https://arxiv.org/abs/{source}"
        )
        yield f"| *published: [{name}]({place})* | {steps:,} | – | – | {n} | – | – | – | – | not run here |"
    earlier: list[Series] = []
    for series in sorted((s for s in all_series if s.track == track), key=_rank):
        interval, p = median_interval(series.values), None
        told_apart = [row for row in reversed(earlier) if enough(series, row)]
        before = next((row for row in told_apart if comparable(series, row)), told_apart[0] if told_apart else None)
        if before is not None and comparable(series, before):
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
        earlier.append(series)


def details(series: Series) -> Iterator[str]:
    """Command and configuration of one row, folded away."""
    yield from (
        f'<details markdown="1"><summary>{series.title.replace("**", "")}: command and configuration</summary>',
        "",
    )
    own_script = series.track.startswith("digits-")  # which trains its rows again itself
    again = [] if own_script else [f"python benchmarks/grokking_records.py --rerun {series.id}{_folder(series.track)}"]
    yield from ("```console", *again, *command_lines(series.command), "```", "")
    steps = ", ".join(f"{seed}: {shown(value, series.limit)}" for seed, value in sorted(series.reached.items()))
    yield from (*textwrap.wrap(f"Steps by seed: {steps}.", 120), "")
    yield from ("```json", *json_lines(series.config), "```", "", "</details>", "")


NOTES = {
    "quadratic": """\
**No row reaches 95%.** `python benchmarks/quadratic.py` says why (the one setting, seed 0, 1,000 steps): the network
learns two symmetries of the form and memorizes the rest.

| the same answer in training, by | validation pairs | right |
|---|---|---|
| the pair swapped, (y, x) | 1,166 | 1,159 |
| else a negated pair, (−x, −y) or (−y, −x) | 882 | 822 |
| neither, though eight more symmetric pairs exist | 304 | 7 |

- **The limit with half of all pairs is 87.5%**: one pair in eight has none of the three in training.
- **A larger share raises the limit** to 1 − (1 − f)³, which is 95% at a share f of 0.63. The methods do not follow.
  At 0.8 the one setting has fitted 56% of the training pairs after 1,000 steps (`--fractions 0.8`). It is right on 33%
  of the validation set. At 0.75 Muon reached 91% in 1,000 steps, and tuned AdamW 86% in 1,500 (seed 1000).
- **Longer runs** gain little at half of all pairs: one of 1,500 steps ended at 85%, at most 86% (seed 1000).
""",
    "digits-full": """\
**The one setting is the slowest here**, with both seeds. It was frozen on modular arithmetic. Muon without its other
parts is as fast as AdamW with nanoGPT's settings, which nobody tuned.
""",
    "s5": """\
**One of 100 seeds failed: seed 29.** It is slow, not stuck. In the row it was at 92% after its 1,000 steps. Trained
again with 2,000 steps allowed, it stayed between 40 and 47% from step 390 to 590, and held 95% from step 865 on. The
configuration was the same, but reruns round differently (see *Again* above). At the end all 150 wrong answers of 3,600
had the right sign (even or odd).

**Clip to Grok needs its authors' larger batch here.** With batch 512, as the track has it, it learned nothing in 2,000
steps. With their batch of 960 and the rest the same it took 1,400 (seed 0), and their median is 1,348.

```console
python benchmarks/grokking_records.py --track s5 --first-seed 29 --seeds 1 \\
    --steps 2000 --out s5-29.jsonl
```
""",
}
"""What a table does not say."""
_HEAD = """# Grokking records

How many optimizer steps until a network generalizes: one fixed task, network and batch per track. The script
`benchmarks/grokking_records.py` writes this page from the rows in `benchmarks/results/grokking/`.

- **Steps**: the first of three evaluations in a row with at least 95% validation accuracy (MNIST: 85%). Evaluations are
  five steps apart, ten or more with some baselines, 25 and 250 on MNIST.
- **The one setting** is the same on all tracks of the transformer. It was frozen before the seeds here were run, and on
  tracks other than x·y nothing was tuned.
- **Interval**: of the median, from order statistics. A failure counts as later than every step.
- **p**: one-sided Mann–Whitney test against the nearest row above that can be compared. Its failures were given as many
  steps, and its seeds are enough for a p below 0.05.
- **Seconds**: of one processor thread, for the whole run with its evaluations.
- **Doubts**: fewer than 10 seeds, failures (with their best accuracy), p of 0.05 or more, or no p since the failures
  above had fewer steps.
- **Again**: `python benchmarks/grokking_records.py --rerun ID` trains the seeds of a row and compares. Rounding differs
  between processors and versions, and moves most runs by a few steps.
- **Baselines** have their authors' settings on this network: Grokfast-EMA, Clip to Grok (the bound differs by track),
  EGD. AdamW and Muon are tuned on x·y. ⊥AdamW has the rate of its authors' transformer. AdamW on the sphere has
  Grokfast's rate and temperature 10, and is not tuned. A baseline has 1,000 to 3,000 steps, as its row says.
- **On perceptrons** settings of baselines were chosen on seed 1000 of x + y, of four to seven each. No good one was
  found for Clip to Grok and Muon alone. On sums of three digits they are those of x + y mod 97.
- Published figures have larger validation sets: half of all pairs, here a quarter. Training sets have the same size.
- Rows without seconds come from `benchmarks/grokking.py`. Their configuration is an
  [experiment](howto/grokking-experiments.md) and what differs from it.
"""


_SPARSE_HEAD = """## With surge-collapse

Does the default policy, `cyclic_pruning`, help a network to generalize? It prunes and regrows in four cycles until
three quarters of the run, and goes deeper than its target on the way. Settings are those of the rows above, and
`surgecollapse run parity`. *Sparsity then* is the sparsity at the step that counts, in the median. *At the end* is the
accuracy under the final mask. p is two-sided (Mann–Whitney) against the row without a policy.
"""
_SPARSE_TAIL = """\
**It helps on sparse parity**, where 40 of 43 inputs are noise and dense training stalls. A tuned weight decay does more
there: AdamW with decay 3 and the full batch takes 228 steps in Prieto's setting, nine of ten seeds
([studies](studies.md#grokking-accelerators)).

**It costs steps on modular arithmetic.** With the one setting it takes 1.3 to 1.9 times as many in the median on ×, +
and −. One of 42 runs there failed, and 4 of 12 on x/y. On S5 none of three runs
learned anything. On the mixed set none of three held more than 78% at the end (one seed at each sparsity). Runs of 300
steps are shorter than the policy is made for. With tuned AdamW and 1,000 steps it takes 1.4 to 2.2 times as many
(one seed).

**What it gives is a sparse network.** At 90% sparsity accuracy at the end is 98.9% or more on x·y and x + y in all runs
of the one setting. On x − y it is 95% or more, on x/y 90%, and with tuned AdamW on x·y 98.8%.

```console
python benchmarks/grokking_sparse.py
```
"""
SPARSE_TITLES = {"parity": "sparse parity, 3 of 43 bits", **TITLES}


def sparse_section(rows: Sequence[Mapping[str, Any]], all_series: Sequence[Series]) -> list[str]:
    """The table of runs with and without the policy; nothing where there are no rows."""
    if not rows:
        return []
    controls = {(s.track, s.method): (list(s.reached.values()), s.limit) for s in all_series}
    found: dict[tuple[str, str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["track"], row["method"], row["asked"]), []).append(row)
    lines = [
        _SPARSE_HEAD,
        "| track | settings | sparsity | n | failures | median steps | least–most | p | sparsity then | at the end |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (track, method, asked), given in sorted(found.items(), key=lambda item: _place(item[0])):
        values = sorted(FAILED if row["reached"] is None else float(row["reached"]) for row in given)
        config = config_of(given)
        assert config is not None, f"no row of {track}, {method}, {asked:.0%} has a configuration"
        limit = int(config["steps"])
        if not asked:
            controls[track, method] = (values, limit)
        elif (
            asked == min(a for t, m, a in found if (t, m) == (track, method) and a)
            and (track, method, 0.0) not in found
        ):
            own, steps = controls[track, method]
            lines.append(_sparse_line(track, method, "dense, as above", sorted(own), steps, None, "–", "–"))
        p = None if not asked else two_sided(values, controls[track, method][0])
        then = [row["sparsity_reached"] for row in given if asked and row["sparsity_reached"] is not None]
        end = statistics.median(row["last"] for row in given)
        lines.append(
            _sparse_line(
                track,
                method,
                f"{asked:.0%}" if asked else "dense",
                values,
                limit,
                p,
                f"{statistics.median(then):.0%}" if then else "–",
                f"{end:.1%}",
            )
        )
    return [*lines, "", _SPARSE_TAIL]


def _place(key: tuple[str, str, float]) -> tuple[int, str, float]:
    track, method, asked = key
    return list(SPARSE_TITLES).index(track), method, asked


def _sparse_line(
    track: str, method: str, name: str, values: list[float], limit: int, p: float | None, then: str, end: str
) -> str:
    middle = statistics.median_high(values) if FAILED in values else statistics.median(values)
    cells = [
        SPARSE_TITLES[track],
        {"preset": "the preset"}.get(method, METHOD_TITLES.get(method, method).split(":")[0].replace("**", "")),
        name,
        str(len(values)),
        str(sum(value == FAILED for value in values)),
        shown(middle, limit),
        "–".join(shown(value, limit) for value in (values[0], values[-1])),
        "–" if p is None else ("< 0.0001" if p < 1e-4 else f"{p:.4f}"),
        then,
        end,
    ]
    return "| " + " | ".join(cells) + " |"


def two_sided(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided Mann–Whitney U test; failures rank last.

    >>> two_sided([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    1.0
    """
    from scipy.stats import mannwhitneyu

    most = 1 + max([value for value in (*ours, *theirs) if value != FAILED], default=0)
    a, b = ([min(value, most) for value in values] for values in (ours, theirs))
    return float(mannwhitneyu(a, b, alternative="two-sided").pvalue)


_TAIL = """## Not on this page

- **Row bounds on the one setting** hurt. On x·y, x − y and x² + xy + y² accuracy was at most 6% when the search gave up
  (`benchmarks/results/grokking/records-search.jsonl`, one seed each).
- **More seeds of the baselines on the mixed track**: one each. A step takes 0.2 s. All but Clip to Grok were given
  1,000 steps, a third of what Clip to Grok needs.
- **The sphere** needs a residual stream, so that it has no rows on perceptrons. With the one setting its temperature is
  not tuned.
- **The default policy** on x² + xy + y²: not run.
- **More than two seeds of the net of 10.6 million parameters**: a seed takes 4 to 16 minutes of a processor
  thread that has bfloat16. `--size full-64` is the same net in float32 with batch 64, for processors without.

```console
python benchmarks/grokking_records.py --track mixed \\
    --method adamw clip-to-grok ema egd spherical orthograd --seeds 3
python benchmarks/grokking_records.py \\
    --track multiplication addition subtraction division quadratic s5 \\
    --method clip-to-grok ema egd spherical orthograd --seeds 10
python benchmarks/grokking_sparse.py --track mixed --seeds 3
python benchmarks/digits.py --size full --steps 1000 --seeds 5 \\
    --method one-setting muon adamw
```
"""


def page(all_series: Sequence[Series], sparse: Sequence[Mapping[str, Any]] = ()) -> str:
    """The whole page; ``sparse`` are the rows of ``grokking_sparse.py``."""
    lines = [_HEAD]
    for track, title in TITLES.items():
        own = [series for series in all_series if series.track == track]
        if not own:
            continue
        lines += [f"## {title}", "", f"{NETS.get(track, NET)}.", "", *table(track, own), ""]
        if track in NOTES:
            lines += [NOTES[track], ""]
        for series in sorted(own, key=lambda s: s.median):
            lines += details(series)
    lines += sparse_section(sparse, all_series)
    return "\n".join([*lines, _TAIL]).rstrip("\n") + "\n"
