"""Does surge-collapse itself help a net to generalize? The default policy at three sparsities on grokking tracks.

    python benchmarks/grokking_sparse.py --track parity --seeds 10
    python benchmarks/grokking_sparse.py --track multiplication s5 --method one-setting --seeds 5
    python benchmarks/grokking_records.py      # write the table into docs/records-grokking.md

A run with the policy goes on until its mask is final, since only then it is as sparse as was asked for; its first step
at 95% for three evaluations on end counts. Settings are those of ``grokking_records.py``, with the policy's schedule
laid over ``STEPS`` steps and a reading at every 40th part of them, as a warning of ``attach`` asks. A finished run is
one row and is never repeated.
"""

from __future__ import annotations

import sys
from typing import Any

import digits
from _harness import make_parser, provenance, read_rows, single_thread
from grokking_records import SPARSE_ROWS, settings
from grokking_tracks.rows import add_row

STEPS = {"adamw": 1_000, "preset": 2_000}
"""Of a whole run, by method; with the one setting as many as ``grokking_records.py`` allows."""
DIGITS = {"digits-small": 1_000}
"""Tracks of ``digits.py``, and the steps of a whole run."""
_BOTH = ("one-setting", "adamw")
TRACKS = {
    "parity": ("preset",),
    "multiplication": _BOTH,
    "addition": _BOTH,
    **dict.fromkeys(("subtraction", "division", "mixed", "quadratic", "s5"), ("one-setting",)),
    **dict.fromkeys(("mlp", "product"), ("adamw",)),
    **dict.fromkeys(DIGITS, ("one-setting",)),
}
"""Methods by track; ``preset`` is ``surgecollapse run parity`` with an evaluation every ten steps."""
SPARSITIES = (0.5, 0.8, 0.9)
POLICY = "cyclic_pruning"


def sparse_settings(track: str, method: str, sparsity: float) -> dict[str, Any]:
    """Keys of a run, without its seed; at sparsity 0 there is no policy."""
    if track == "parity":
        base = {"task": "parity", "monitors": "none", "evaluate_every": 10}
    else:
        base = settings(track, method)
    steps = int(base["steps"]) if method == "one-setting" else STEPS[method]
    if not sparsity:
        return {**base, "policy": "none", "steps": steps}
    return {**base, "policy": POLICY, "sparsity": sparsity, "steps": steps, "every": steps // 40}


def run(tracks: list[str], methods: list[str], seeds: range, out: Any) -> None:
    """Train what has no row yet, seed by seed."""
    single_thread()
    from grokking_tracks.runs import train

    from surgecollapse.lab.config import make_config

    done = {(row["track"], row["method"], row["asked"], row["seed"]) for row in read_rows(out)}
    for seed in seeds:
        for track in tracks:
            for method in (name for name in TRACKS[track] if name in methods):
                for asked in (0.0, *SPARSITIES) if track == "parity" else SPARSITIES:
                    if (track, method, asked, seed) in done:
                        continue
                    row = {"track": track, "method": method, "asked": asked, "seed": seed}
                    if track in DIGITS:
                        row |= _on_digits(track, method, seed, asked)
                    else:
                        config = make_config(**sparse_settings(track, method, asked), seed=seed)
                        row |= {**train(config).row, **provenance(config)}
                    add_row(out, row, ("track", "method", "asked"))
                    print(
                        f"{track}, {method}, {asked:.0%}, seed {seed}: {row['reached'] or '–'} steps, "
                        f"{row['last']:.1%} at the end, {row['seconds']:.0f} s",
                        flush=True,
                    )


def _on_digits(track: str, method: str, seed: int, sparsity: float) -> dict[str, Any]:
    import surgecollapse

    size, steps = track.removeprefix("digits-"), DIGITS[track]
    found = digits.train(size, method, seed, steps, "cpu", policy=POLICY, sparsity=sparsity)
    config = {**digits.listed(size, method, steps, "cpu"), "policy": POLICY, "sparsity": sparsity, "seed": seed}
    return {**found, "version": surgecollapse.__version__, "config": config}


def main() -> int:
    """Train."""
    every_method = list(dict.fromkeys(name for methods in TRACKS.values() for name in methods))
    parser = make_parser(__doc__, out=SPARSE_ROWS, seeds=10)
    parser.add_argument("--track", nargs="*", choices=list(TRACKS), default=list(TRACKS), help="on these tracks")
    parser.add_argument("--method", nargs="*", choices=every_method, default=every_method, help="with these settings")
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args()
    run(given.track, given.method, range(given.first_seed, given.first_seed + given.seeds), given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
