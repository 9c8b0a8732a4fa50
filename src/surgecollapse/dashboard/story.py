"""The plain sentences over a run's charts: what happened, and whether it was worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.dashboard.reading import meta
from surgecollapse.record.outcome import difference, difference_words, number, what_happened, worth_words

if TYPE_CHECKING:
    from surgecollapse.record.schema import Connection

_PLAIN = ("none", "no_op")
_OWN = ("method.", "policy", "sparsity")
"""Settings in which a run and its plain partner may differ."""


def story_of(connection: Connection, row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sentences about a run, and the run that it is compared with.

    Args:
        connection: of the run store.
        row: of the run in the list.
        rows: all rows of the list.

    Returns:
        ``sentences``, and ``baseline``: the id of the plain run, or ``None``.
    """
    summary: dict[str, Any] = meta(connection, "summary", dict, {})
    if not summary:
        return {"sentences": [_so_far(row)], "baseline": None}
    sentences = what_happened(summary)
    pairs = plain_partners(row, rows)
    if not pairs:
        if row["policy"] not in _PLAIN and row.get("settings"):
            sentences.append("There is no plain run of the same settings and seed here to compare it with.")
        return {"sentences": sentences, "baseline": None}
    data: dict[str, Any] = meta(connection, "data", dict, {})
    samples = data.get("samples") if isinstance(data.get("samples"), dict) else {}
    found = difference(
        [mine["accuracy"] for mine, _ in pairs],
        [base["accuracy"] for _, base in pairs],
        samples.get("test") if isinstance(samples, dict) and number(samples.get("test")) else None,
    )
    base = next((other for mine, other in pairs if mine["id"] == row["id"]), pairs[0][1])
    sentences.append(difference_words(found, base.get("title") or base["name"]))
    sizes = [{"bytes_sparse": one["size"], "seconds": one["duration"]} for one in (row, base)]
    sentences += [words] if (words := worth_words(*sizes)) else []
    return {"sentences": sentences, "baseline": base["id"]}


def plain_partners(row: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Runs of this configuration, each with the plain run of its seed that trained on the same terms."""
    if row["policy"] in _PLAIN or not row.get("settings"):
        return []
    terms = _terms(row)
    plain = {
        other["seed"]: other
        for other in rows
        if other.get("policy") in _PLAIN and _is_tested(other) and _terms(other) == terms
    }
    ours = [other for other in rows if other.get("group") == row["group"] and _is_tested(other)]
    return [(mine, plain[mine["seed"]]) for mine in ours if mine["seed"] in plain]


def _is_tested(row: dict[str, Any]) -> bool:
    return row.get("part") == "test" and row.get("accuracy") is not None and bool(row.get("settings"))


def _terms(row: dict[str, Any]) -> str:
    """What two runs must share to be compared."""
    kept = {name: value for name, value in row["settings"].items() if not name.startswith(_OWN) and "seed" not in name}
    return repr(sorted(kept.items(), key=lambda pair: pair[0]))


def _so_far(row: dict[str, Any]) -> str:
    """What a run without a summary does, or where it ended; of one that trains nothing that would be stale at once."""
    if row["status"] == "live":
        steps = f" for {row['total']:,.0f} steps" if row.get("total") else ""
        how = f" with {row['policy']}" if row.get("policy") else ""
        aim = f", to {row['target']:.1%} sparsity" if row.get("target") and row["policy"] not in _PLAIN else ""
        return f"Training{' ' + row['task'] if row.get('task') else ''}{steps}{how}{aim}."
    step, total = row.get("step"), row.get("total")
    where = f"step {step:,} of {total:,.0f}" if total else f"step {step:,}"
    parts = [f"{row['status'].capitalize()} at {where}"]
    if row.get("accuracy") is not None:
        parts.append(f"{row['accuracy']:.2%} {row['part']} accuracy so far")
    if row.get("sparsity") is not None:
        aim = f" of {row['target']:.1%} aimed at" if row.get("target") else ""
        parts.append(f"{row['sparsity']:.1%} sparsity{aim}")
    return ", ".join(parts) + "."
