"""``compare``: many methods on the same tasks."""

from __future__ import annotations

import shlex
from pathlib import Path

from surgecollapse.cli.output import INTERRUPTED, fail, say

typed: list[str] = []
"""The words of the command line, for the record of how rows came about."""


def compare(
    suite: str,
    /,
    *,
    methods: str | None = None,
    entries: str | None = None,
    sparsities: str | None = None,
    seeds: int = 10,
    budget: str = "equal",
    parts: str | None = None,
    tune_at: float | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    reference: str | None = None,
    out: Path | None = None,
    work: Path | None = None,
    data_dir: Path | None = None,
    dry_run: bool = False,
) -> int:
    """Train many methods on the same tasks with paired seeds, and write tables and plots.

    What is finished is kept: the same command goes on where it stopped, on any machine that has the folder.

    Args:
        suite: What to train: smoke, quick, quick-mlp, quick-cnn, noise, full or long-text; or a TOML file of keys, or
            a Python file of your own that defines data and model.
        methods: Comma-separated; default: all (dense, weight_decay, dropout, one_shot, gmp, static, set, rigl, granet,
            dsd, acdc, cyclical_pruning, straight_through, st3, feather, small_dense, cyclic_pruning, soft_threshold).
            gmp_equal_flops and rigl_equal_flops train as long as costs the training FLOPs of the reference.
        entries: Comma-separated labels of the nets to train now, as in mnist-mlp,kjv-gpt; default: all of the suite.
            The tables show all that have rows.
        sparsities: Comma-separated, as in .9,.95; default: those of the suite.
        seeds: Seeds 0, 1, … of every method; no claim is made under 10.
        budget: equal: every method is tuned over its eight trials, on validation data only; a number: over that many of
            them, spread evenly; none: untuned.
        parts: Comma-separated optional parts: average (an average of the weights under the final mask), ramp (small
            first steps of regrown weights). Every method's trials are repeated with each.
        tune_at: Sparsity at which methods are tuned; default: .9, or the nearest that a net has.
        jobs: Processes of one thread each; default: the cores that may be used.
        cluster: Address of a Dask scheduler, as in tcp://host:8786: its workers train instead of processes here.
        reference: The method that the others are compared with; default: cyclic_pruning, or else the first.
        out: Folder of rows, tables and plots. Default: runs/compare-SUITE.
        work: Folder for temporary files; default: the system's.
        data_dir: Folder with the folders mnist and fashion-mnist, which hold their data files, and if need be kjv and
            imdb.
        dry_run: Only say how many runs are to do, and how long they will take.
    """
    from surgecollapse.compare.command import failures, outlook, prepare
    from surgecollapse.compare.display import for_terminal

    folder = out or Path("runs") / f"compare-{Path(suite).stem}"
    comparison = prepare(
        suite,
        folder,
        methods=methods,
        entries=entries,
        sparsities=sparsities,
        seeds=seeds,
        budget=budget,
        parts=parts,
        tune_at=tune_at,
        jobs=jobs,
        cluster=cluster,
        reference=reference,
        work=work,
        data_dir=data_dir,
        command=shlex.join(["surgecollapse", *typed]),
    )
    if dry_run:
        say("\n".join(outlook(comparison)))
        return 0
    outcome = comparison.run(for_terminal())
    say(f"{outcome.done} of {outcome.total} runs done: {folder / 'table.md'}")
    if not comparison.drawn:
        say("for plots beside the tables: pip install 'surgecollapse[lab]'")
    if outcome.status == "interrupted":
        say("stopped, what is finished is kept; go on with the same command")
        return INTERRUPTED
    for line in failures(outcome):
        fail(line, 1)
    return 1 if outcome.failures else 0
