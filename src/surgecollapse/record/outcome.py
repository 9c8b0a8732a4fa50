"""What a run achieved and whether it was worth it, in plain sentences; the same in terminal, page and report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5% quantile of Student's t by degrees of freedom, from 1 on."""
_Z975 = 1.959964
_GROKKING_TASKS = ("modular", "parity", "permutations")


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with half the width of a 95% interval.

    ``source`` says what the interval covers: ``seeds`` (Student's t over pairs of one seed each), or ``samples``. The
    latter is one pair, two independent shares of the test samples, so that the noise of seeds is not in it.
    """

    mean: float
    half: float | None
    pairs: int
    source: str

    @property
    def is_noise(self) -> bool:
        """Whether zero lies in the interval; true without one."""
        return self.half is None or abs(self.mean) <= self.half


def student_975(freedom: int) -> float:
    """The 97.5% quantile of Student's t; above 30 degrees of freedom z + (z³ + z)/4ν, good to 0.001.

    >>> student_975(9)
    2.262
    """
    if freedom < 1:
        raise ValueError(f"expected at least 1 degree of freedom, got {freedom}")
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    return _Z975 + (_Z975**3 + _Z975) / (4 * freedom)


def difference(ours: Sequence[float], theirs: Sequence[float], samples: int | None = None) -> Difference:
    """Paired differences of accuracies, ours − theirs.

    Args:
        ours: shares in [0, 1], one a seed.
        theirs: of the same seeds.
        samples: how many test samples each is the share of; needed for the interval of a single pair.

    Raises:
        ValueError: if the two are empty or of different lengths.

    >>> found = difference([0.9, 0.92], [0.9, 0.9])
    >>> round(found.mean, 3), round(found.half, 3), found.is_noise
    (0.01, 0.127, True)
    >>> round(difference([0.9], [0.8], 1000).half, 3)
    0.031
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"expected as many values on both sides, at least one, got {len(ours)} and {len(theirs)}")
    gaps = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    if len(gaps) > 1:
        half = student_975(len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
        return Difference(statistics.fmean(gaps), half, len(gaps), "seeds")
    variance = sum(share * (1 - share) for share in (ours[0], theirs[0]))
    noise = None if not samples else _Z975 * math.sqrt(max(variance, 0.0) / samples)
    return Difference(gaps[0], noise, 1, "samples")


def difference_words(found: Difference, other: str) -> str:
    """The difference as a sentence.

    >>> difference_words(Difference(-0.012, 0.004, 5, "seeds"), "plain")
    'Accuracy is 1.20 points lower than that of plain (95% interval −1.60 to −0.80, 5 seeds).'
    >>> difference_words(Difference(0.003, 0.02, 1, "samples"), "RigL")
    'Accuracy is within noise of that of RigL: +0.30 points (95% interval −1.70 to +2.30, one seed, test samples only).'
    """
    mean = 100 * found.mean
    if found.half is None:
        return f"Accuracy differs from that of {other} by {_signed(mean)} points; one seed gives no interval."
    low, high = mean - 100 * found.half, mean + 100 * found.half
    source = f"{found.pairs} seeds" if found.source == "seeds" else "one seed, test samples only"
    interval = f"95% interval {_signed(low)} to {_signed(high)}, {source}"
    if found.is_noise:
        return f"Accuracy is within noise of that of {other}: {_signed(mean)} points ({interval})."
    way = "higher" if mean > 0 else "lower"
    return f"Accuracy is {abs(mean):.2f} points {way} than that of {other} ({interval})."


def what_happened(summary: Mapping[str, Any]) -> list[str]:
    """What a finished run did, where it ended and why it stopped.

    Args:
        summary: what :func:`surgecollapse.lab.training.summary.run_summary` makes.

    >>> what_happened({"steps": 200, "task": "digits", "policy": "gmp", "seconds": 2, "accuracy": 0.9})
    ['Trained digits for 200 steps with gmp in 2.0 s: 90.00% test accuracy.']
    """
    accuracy, sparsity, seconds = (number(summary.get(name)) for name in ("accuracy", "sparsity", "seconds"))
    took = "" if seconds is None else f" in {duration_words(seconds)}"
    task, policy = (str(summary.get(name, usual))[:80] for name, usual in (("task", "a net"), ("policy", "no policy")))
    found = f"Trained {task} for {number(summary.get('steps')) or 0:,} steps with {policy}{took}"
    scores = [] if accuracy is None else [f"{accuracy:.2%} test accuracy"]
    ended = ", ".join(scores) + (f" at {sparsity:.1%} sparsity" if scores and sparsity else "")
    said = [f"{found}: {ended}." if ended else f"{found}."]
    why = why_it_stopped(summary)
    return [*said, *([why] if why else []), *grokking_words(summary)]


def why_it_stopped(summary: Mapping[str, Any]) -> str:
    """Why a run ended before its last step; empty where it did not.

    >>> why_it_stopped({"reached_goal": True}), why_it_stopped({})
    ('It stopped because it reached its goal, in three evaluations in a row.', '')
    """
    reasons = {
        "diverged": "It diverged: weights or test loss are not finite, so it is of no use.",
        "stopped_by_hand": "It stopped because a person asked for it.",
        "reached_goal": "It stopped because it reached its goal, in three evaluations in a row.",
        "given_up": "It stopped because the forecast was that it would not generalize.",
        "stopped_early": "It stopped early because validation no longer improved; the best weights were restored.",
    }
    return next((text for name, text in reasons.items() if summary.get(name)), "")


def grokking_words(summary: Mapping[str, Any]) -> list[str]:
    """When a run fitted its training set and when it generalized, where that is what the task is about.

    >>> grokking_words({"task": "modular", "grokking": {"outcome": "grokked", "t_fit": 100, "t_gen": 900}})
    ['It fitted the training set at step 100 and generalized at step 900: it grokked, 800 steps later.']
    """
    times = summary.get("grokking")
    if not isinstance(times, Mapping):
        return []
    fit, gen, outcome = number(times.get("t_fit")), number(times.get("t_gen")), times.get("outcome")
    about = any(word in str(summary.get("task", "")) for word in _GROKKING_TASKS)
    if outcome != "grokked" and not about:
        return []
    if outcome == "grokked" and fit is not None and gen is not None:
        late = f"it grokked, {gen - fit:,} steps later"
        return [f"It fitted the training set at step {fit:,} and generalized at step {gen:,}: {late}."]
    if gen is not None:
        fitted = "It never fitted the training set" if fit is None else f"It fitted the training set at step {fit:,}"
        lasting = "at once, without grokking" if outcome == "at once" else "but not for three evaluations in a row"
        return [f"{fitted} and generalized at step {gen:,}, {lasting}."]
    if fit is not None:
        return [f"It fitted the training set at step {fit:,} and has not generalized."]
    return ["It has neither fitted the training set nor generalized."]


def worth_words(summary: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Size and time of a run against those of another, as a sentence; empty where neither is known.

    >>> worth_words({"bytes_sparse": 10, "seconds": 3.0}, {"bytes_sparse": 40, "seconds": 2.0})
    'The net is 4.0 times smaller and took 1.5 times as long to train.'
    """
    parts = []
    ours, theirs = (number(one.get("bytes_sparse")) for one in (summary, base))
    if ours and theirs:
        ratio = theirs / ours
        smaller = f"{ratio:.1f} times smaller" if ratio > 1 else f"{1 / ratio:.1f} times larger"
        parts.append(f"is {'about the same size' if abs(ratio - 1) < 0.05 else smaller}")
    mine, other = (number(one.get("seconds")) for one in (summary, base))
    if mine and other:
        parts.append(f"took {mine / other:.1f} times as long to train")
    return f"The net {' and '.join(parts)}." if parts else ""


def duration_words(seconds: float) -> str:
    """A duration as people say it.

    >>> duration_words(3.25), duration_words(100), duration_words(7300)
    ('3.2 s', '1 min 40 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def _signed(value: float) -> str:
    return f"{'−' if value < 0 else '+'}{abs(value):.2f}"


def number(value: Any) -> float | None:
    """The number, or ``None`` for what is none, not finite, or longer than 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 2.0**63 else None
