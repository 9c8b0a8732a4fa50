"""Why does x² + xy + y² mod 97 stop short of 95%? Validation accuracy by which symmetric pairs are in training.

    python benchmarks/quadratic.py                       # the one setting at half of all pairs
    python benchmarks/quadratic.py --fractions 0.5 0.8   # and with more data

The form keeps its value under twelve linear maps: (x, y) → (y, x), (−x, −y) and (−y, x + y) generate them. A net that
has learned some of these symmetries, and no more, is right where a pair with the same answer by them was trained on.
One run a line in ``results/grokking/quadratic.jsonl``.
"""

from __future__ import annotations

import sys
from typing import Any

from _harness import RESULTS, append_row, make_parser, provenance, read_rows, single_thread
from grokking_records import settings

OUT = RESULTS / "grokking" / "quadratic.jsonl"
GROUPS = ("swapped", "negated", "turned", "none")
"""The first of these that holds: the swapped pair was trained on; else one of the two negated ones; else another of the
twelve; else none of them."""


def orbit(x: Any, y: Any, modulus: int) -> list[tuple[Any, Any]]:
    """The twelve pairs of the same value: itself, swapped, the two negated, and all four turned once and twice.

    >>> sorted({(a * a + a * b + b * b) % 97 for a, b in orbit(5, 11, 97)}), len(set(orbit(5, 11, 97)))
    ([7], 12)
    """
    found = []
    for _ in range(3):
        found += [(x, y), (y, x), (-x % modulus, -y % modulus), (-y % modulus, -x % modulus)]
        x, y = -y % modulus, (x + y) % modulus
    return found


def groups(train: Any, validation: Any, modulus: int) -> Any:
    """Index in :data:`GROUPS` of every validation pair (n, 2)."""
    import torch

    known = torch.zeros(modulus * modulus, dtype=torch.bool)
    known[train[:, 0] * modulus + train[:, 1]] = True
    there = torch.stack([known[a * modulus + b] for a, b in orbit(validation[:, 0], validation[:, 1], modulus)])
    found = torch.full((len(validation),), 3)
    found[there[4:].any(0)] = 2
    found[there[2:4].any(0)] = 1
    found[there[1]] = 0
    return found


def run(fraction: float, seed: int, steps: int) -> dict[str, Any]:
    """Train, and judge by groups."""
    from grokking_tracks.runs import train

    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.evaluation import predict

    shares: dict[str, Any] = {}

    def judge(model: Any, data: Any) -> None:
        right = predict(model, data.x_validation).argmax(dim=1) == data.y_validation
        modulus = data.num_classes
        of = groups(data.x_train[:, [0, 2]], data.x_validation[:, [0, 2]], modulus)
        for i, name in enumerate(GROUPS):
            chosen = right[of == i]
            shares[name] = [int(chosen.sum()), len(chosen)]
        fitted = predict(model, data.x_train).argmax(dim=1) == data.y_train
        shares["train"] = [int(fitted.sum()), len(fitted)]

    keys = {**settings("quadratic", "one-setting"), "train_fraction": fraction, "steps": steps}
    config = make_config(**keys, seed=seed)
    row = train(config, at_end=judge).row
    return {"fraction": fraction, "seed": seed, **row, "right": shares, **provenance(config)}


def main() -> int:
    """Train what has no row yet."""
    parser = make_parser(__doc__, out=OUT, seeds=1)
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.5], help="share of the pairs for training")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1_000)
    given = parser.parse_args()
    single_thread()
    done = {(row["fraction"], row["seed"], row["config"]["steps"]) for row in read_rows(given.out)}
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for fraction in given.fractions:
            if (fraction, seed, given.steps) in done:
                continue
            row = run(fraction, seed, given.steps)
            append_row(given.out, row)
            parts = ", ".join(f"{name} {good} of {count}" for name, (good, count) in row["right"].items())
            print(f"{fraction:.0%}, seed {seed}: {row['reached'] or '–'} steps, {row['last']:.1%}: {parts}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
