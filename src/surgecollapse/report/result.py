"""What the report says first: what came out, against what, and whether that is more than noise; then the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgecollapse.record.outcome import difference, difference_words, what_happened, worth_words
from surgecollapse.report.rundata import RunData
from surgecollapse.report.summary import readable_bytes

if TYPE_CHECKING:
    from surgecollapse.report.markup import Section, Table

_PLAIN = ("none", "no_op")
_SEEDS = ("seed", "split_seed")


def result(runs: Sequence[RunData]) -> Section:
    """The answer in sentences: each group of seeds against the plain runs, or the first run where none is plain."""
    from surgecollapse.report.markup import Section

    lines = [line for group in by_configuration(runs) for line in _about(group, runs)]
    return Section("result", "Result", paragraphs=lines)


def _about(group: Sequence[RunData], runs: Sequence[RunData]) -> list[str]:
    first = group[0]
    if not first.summary:
        return [f"`{first.name}`: no summary, so that only its record can be shown."]
    names = first.name if len(group) == 1 else f"{first.name} and {len(group) - 1} more seeds"
    said = " ".join([*what_happened(first.summary), *filter(None, [packed_words(first.summary)])])
    base = [run for run in runs if run.policy in _PLAIN and run.summary] or [runs[0]]
    if first in base:
        return [f"`{names}`: {said}"]
    parts = [said, *_compared(group, base)]
    density = first.summary.get("mean_density")
    if isinstance(density, float):
        parts.append(f"Mean density during training: {density:.3f}.")
    return [f"`{names}`: {' '.join(parts)}"]


def _compared(group: Sequence[RunData], base: Sequence[RunData]) -> list[str]:
    """The difference of accuracies with its interval, then size and time."""
    partners = {run.config.get("seed"): run for run in base}
    pairs = [(run, partners[seed]) for run in group if (seed := run.config.get("seed")) in partners]
    scored = [
        (float(run.summary["accuracy"]), float(other.summary["accuracy"]))
        for run, other in pairs
        if all(isinstance(one.summary.get("accuracy"), float) for one in (run, other))
    ]
    if not scored:
        return [f"No run of {base[0].name} has one of its seeds, so that they are not compared."]
    found = difference([ours for ours, _ in scored], [theirs for _, theirs in scored], group[0].test_samples)
    worth = worth_words(pairs[0][0].summary, pairs[0][1].summary)
    return [difference_words(found, pairs[0][1].name), *([worth] if worth else [])]


def by_configuration(runs: Sequence[RunData]) -> list[list[RunData]]:
    """Runs that differ in their seeds alone stand together, in the order in which they were given."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        kept = sorted((key, repr(value)) for key, value in run.config.items() if key not in _SEEDS)
        groups.setdefault(repr(kept) if run.config else str(run.directory), []).append(run)
    return list(groups.values())


def settings(runs: Sequence[RunData]) -> Section:
    """In which settings the runs differ; all settings and the environment are folded."""
    from surgecollapse.report.markup import Section

    part = Section("settings", "Settings and environment")
    configured = [run for run in runs if run.config]
    if not configured:
        part.missing.append("No run has a configuration.")
        return part
    keys = sorted({key for run in configured for key in run.config})
    different = [key for key in keys if len({repr(run.config.get(key)) for run in configured}) > 1]
    if len(configured) > 1:
        part.words = "The runs differ in these settings." if different else "The runs have the same settings."
        if different:
            part.before = _table("Settings that differ", different, [run.config for run in configured], configured)
    part.tables.append(_table("All settings", keys, [run.config for run in configured], configured))
    facts = [run.environment for run in configured]
    names = sorted({key for table in facts for key in table})
    if names:
        part.tables.append(_table("Environment", names, facts, configured))
    return part


def _table(label: str, keys: Sequence[str], values: Sequence[Mapping[str, Any]], runs: Sequence[RunData]) -> Table:
    from surgecollapse.report.markup import Table

    rows = [[key, *(_shown(table.get(key)) for table in values)] for key in keys]
    names = [run.name for run in runs]
    return Table(heads=("setting", *names), rows=rows, left=("setting", *names), label=label)


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def packed_words(summary: Mapping[str, Any]) -> str:
    """How large a net is with its zeros packed, against whole.

    >>> packed_words({"bytes_sparse": 55_336, "bytes_dense": 340_008})
    'Packed, the network takes 55.3 kB of 340.0 kB.'
    >>> packed_words({"bytes_sparse": 340_008, "bytes_dense": 340_008})
    'The network takes 340.0 kB.'
    """
    packed, whole = summary.get("bytes_sparse"), summary.get("bytes_dense")
    if not isinstance(packed, int) or not isinstance(whole, int):
        return ""
    if packed == whole:
        return f"The network takes {readable_bytes(whole)}."
    return f"Packed, the network takes {readable_bytes(packed)} of {readable_bytes(whole)}."
