"""The grokking records: one fixed task, net and batch per track, and how many steps methods take to 95%.

    python benchmarks/grokking_records.py --track multiplication --method one-setting --first-seed 20 --seeds 30
    python benchmarks/grokking_records.py                     # write docs/records-grokking.md from the rows
    python benchmarks/grokking_records.py --rerun ID          # train the seeds of a row of the page again

A finished run is one row and is never repeated: the same command goes on where it stopped. A run ends once three
evaluations on end reach 95% validation accuracy. ``one-setting`` is the same in every track, and was frozen before its
seeds here were run; the clip of Clip to Grok differs by track, as its authors chose it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from _harness import RESULTS, make_parser, provenance, read_rows, single_thread
from grokking_tracks.page import Series, collected, page, shown
from grokking_tracks.rows import add_row

PAGE = Path(__file__).parents[1] / "docs" / "records-grokking.md"
ROWS = RESULTS / "grokking" / "records.jsonl"
DIGITS_ROWS = RESULTS / "grokking" / "digits.jsonl"
"""Of ``digits.py``."""
SPARSE_ROWS = RESULTS / "grokking" / "sparse.jsonl"
"""Of ``grokking_sparse.py``."""
_DECODER = {"model": "decoder", "widths": (128, 512), "activation": "gelu", "batch_size": 512, "train_fraction": 0.5}
TRACKS: dict[str, dict[str, Any]] = {
    **{
        name: {"task": "modular", "operation": operation, "modulus": 97, **_DECODER}
        for name, operation in {
            "multiplication": "mul",
            "addition": "add",
            "subtraction": "sub",
            "division": "div",
            "quadratic": "quadratic",
        }.items()
    },
    "mixed": {"task": "modular", "operation": "mixed", "modulus": 97, **_DECODER, "batch_size": 2048},
    "s5": {"task": "permutations", "degree": 5, **_DECODER},
}
"""What is fixed: Grokfast's transformer (422,784 parameters for 99 tokens), half of all samples, and the batch."""
STEPS = {"s5": 1_000, "mixed": 1_000, "quadratic": 1_000}
"""Steps after which a run has failed, unless the method says otherwise; 300 elsewhere."""
MOST = {"s5": 2_000, "mixed": 1_000, "quadratic": 1_000}
"""Steps after which a run has failed whatever the method says."""
LONGER = {("mixed", "clip-to-grok"): 4_000}
"""The same where the authors' own median is later."""
CLIPS = {"multiplication": 2.0, "addition": 1.75, "division": 1.75, "subtraction": 1.5, "mixed": 1.75, "s5": 1.0}
"""Row norms of Clip to Grok by track, as its authors chose them."""
_ONE = {
    "optimizer": "muon",
    "lr": 0.009,
    "weight_decay": 2.0,
    "momentum": 0.75,
    "beta2": 0.95,
    "muon_lr": 0.5,
    "muon_tokens": True,
    "muon_beta1": 0.8,
    "decay_vectors": False,
    "embedding_scale": 0.2,
    "embedding_lr": 2.0,
    "position_scale": 0.1,
    "position_lr": 1 / 3,
    "scale_partial_batches": True,
    "ema_decay": 0.8,
    "grokfast": "ema",
    "grokfast_alpha": 0.9,
    "grokfast_lamb": 0.5,
}
_ADAM = {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.005, "beta2": 0.98, "steps": 3_000, "evaluate_every": 10}
"""Grokfast's, which the authors of egalitarian descent took over on this net."""
_NO_DECAY = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.0, "beta2": 0.98, "evaluate_every": 10}
"""What needs no weight decay has none."""
METHODS: dict[str, dict[str, Any]] = {
    "one-setting": _ONE,
    "adamw": {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 1.0, "beta2": 0.98, "steps": 2_000},
    "muon": {"optimizer": "muon", "lr": 5e-3, "weight_decay": 2.0, "steps": 2_000},
    "clip-to-grok": {"optimizer": "lion", "lr": 1e-3, "weight_decay": 0.0, "beta2": 0.97, "steps": 3_000},
    "ema": {**_ADAM, "grokfast": "ema", "grokfast_alpha": 0.98, "grokfast_lamb": 2.0},
    "egd": {**_ADAM, "equalize_spectrum": True, "steps": 2_000},
    "orthograd": {**_NO_DECAY, "orthograd": "rescaled", "steps": 1_000},
    "spherical": {**_NO_DECAY, "temperature": 10.0, "steps": 2_000},
    "one-setting-spherical": {**_ONE, "temperature": 10.0},
}
"""Settings by method; all have ten steps of warm-up. Those of the baselines are tuned, or the authors'."""


_TUNED = {"optimizer": "adamw", "lr": 0.03, "weight_decay": 3.0, "eps": 1e-8, "steps": 1_000}
_ON_SUMS = {
    "adamw": _TUNED,
    "ema": {**_TUNED, "grokfast": "ema", "grokfast_alpha": 0.8, "grokfast_lamb": 1.0},
    "egd": {**_TUNED, "equalize_spectrum": True},
    "muon": {"optimizer": "muon", "lr": 0.03, "weight_decay": 3.0, "steps": 1_000},
    "clip-to-grok": {
        "optimizer": "lion",
        "lr": 0.01,
        "weight_decay": 0.0,
        "beta2": 0.97,
        "max_row_norm": 2.0,
        "init_row_norm": 2.0,
        "steps": 1_000,
    },
}
PERCEPTRONS: dict[str, dict[str, Any]] = {
    "mlp": {"task": "prieto-modular", "evaluate_every": 5},
    "product": {"task": "prieto-modular", "operation": "mul", "evaluate_every": 5},
    "mnist": {"task": "grokfast-mnist-baseline", "stop_at_accuracy": 0.85, "evaluate_every": 25},
}
"""Tracks of other nets, by their experiment; most of their rows are those of ``grokking.py``."""
ON_PERCEPTRONS: dict[str, dict[str, dict[str, Any]]] = {
    "mlp": _ON_SUMS,
    "product": _ON_SUMS,
    "mnist": {
        "clip-to-grok": {
            "optimizer": "lion",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "beta2": 0.97,
            "max_row_norm": 1.0,
            "steps": 2_000,
        },
        "egd": {"weight_decay": 2.0, "equalize_spectrum": True, "steps": 2_000},
        "orthograd": {"weight_decay": 0.0, "orthograd": "rescaled", "steps": 1_000},
    },
}
"""Settings of methods there, chosen on seed 1000; the sphere needs a residual stream."""


def settings(track: str, method: str) -> dict[str, Any]:
    """Keys of a run, without its seed.

    Raises:
        KeyError: if the method has no settings on that track.
    """
    if track in PERCEPTRONS:
        return {"policy": "none", "monitors": "none", **PERCEPTRONS[track], **ON_PERCEPTRONS[track][method]}
    chosen = {"steps": STEPS.get(track, 300), **METHODS[method]}
    most = MOST.get(track, chosen["steps"])
    chosen["steps"] = LONGER.get((track, method), min(chosen["steps"], most))
    if method == "clip-to-grok":
        chosen |= {"max_row_norm": CLIPS.get(track, 2.0), "init_row_norm": CLIPS.get(track, 2.0)}
    common = {"policy": "none", "monitors": "none", "warmup": 10, "evaluate_every": 5}
    return {**common, **TRACKS[track], **chosen}


def run(tracks: list[str], methods: list[str], seeds: range, out: Path, device: str = "cpu", **changed: Any) -> None:
    """Train what has no row yet, seed by seed; ``changed`` are keys with other values than on the page."""
    single_thread()
    from grokking_tracks.runs import train

    from surgecollapse.lab.config import make_config

    done = {(row["track"], row["method"], row["seed"]) for row in read_rows(out)}
    for seed in seeds:
        for track in tracks:
            for method in methods:
                if (track, method, seed) in done:
                    continue
                config = make_config(**{**settings(track, method), **changed}, seed=seed, device=device)
                row = {"track": track, "method": method, "seed": seed, **train(config).row, **provenance(config)}
                add_row(out, row, ("track", "method"))
                print(
                    f"{track}, {method}, seed {seed}: {row['reached'] or '–'} steps, {row['seconds']:.0f} s", flush=True
                )


def rerun(series: Series, seeds: int | None, data_dir: Path | None = None) -> None:
    """Train a row of the page again, seed by seed."""
    single_thread()
    from grokking_tracks.runs import train

    from surgecollapse.lab.config import make_config

    for seed, then in sorted(series.reached.items())[:seeds]:
        values = {key: value for key, value in series.config.items() if value is not None}
        if data_dir is not None:
            values["data_dir"] = data_dir
        now = train(make_config(**values, seed=seed)).reached
        print(f"seed {seed}: {now or '–'} steps now, {shown(then, series.limit)} in the row", flush=True)


def rows_of_page(out: Path) -> list[dict[str, Any]]:
    """Rows of this script and of ``digits.py``."""
    return [*read_rows(out), *read_rows(DIGITS_ROWS)]


def main() -> int:
    """Train, or write the page."""
    parser = make_parser(__doc__, out=ROWS, seeds=10)
    parser.add_argument("--track", nargs="*", choices=[*TRACKS, *PERCEPTRONS], default=[], help="train on these")
    parser.add_argument("--method", nargs="*", choices=list(METHODS), default=["one-setting"], help="by these methods")
    parser.add_argument("--first-seed", type=int, default=0, help="searches take seeds from 1000 on")
    parser.add_argument("--steps", type=int, metavar="N", help="train for N steps at most, into a file of your own")
    parser.add_argument("--rerun", metavar="ID", help="id of the row to train again")
    parser.add_argument("--rerun-seeds", type=int, metavar="N", help="how many of its seeds; default: all")
    parser.add_argument("--data-dir", type=Path, help="folder of the files of MNIST, for rows that need them")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where nets train")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page is written")
    given = parser.parse_args()
    if given.rerun is not None:
        chosen = [series for series in collected(rows_of_page(given.out)) if series.id == given.rerun]
        if not chosen:
            parser.error(f"no row {given.rerun!r}: expected an id of {PAGE.name}")
        if chosen[0].track.startswith("digits-"):
            parser.error(f"row {given.rerun} is trained again by another script: {chosen[0].command} --out FILE")
        rerun(chosen[0], given.rerun_seeds, given.data_dir)
        return 0
    if not given.track:
        given.page.write_text(page(collected(rows_of_page(given.out)), read_rows(SPARSE_ROWS)), encoding="utf-8")
        return 0
    for track in given.track:
        known = list(ON_PERCEPTRONS.get(track, METHODS))
        unknown = [name for name in given.method if name not in known]
        if unknown:
            parser.error(f"{unknown[0]} has no settings on {track}: expected {', '.join(known)}")
    if given.steps is not None and given.out.resolve() == ROWS.resolve():
        parser.error("--steps changes when a run of the page has failed: expected another file for --out")
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    changed = {"steps": given.steps, "data_dir": given.data_dir}
    asked = {name: value for name, value in changed.items() if value is not None}
    run(given.track, given.method, seeds, given.out, given.device, **asked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
