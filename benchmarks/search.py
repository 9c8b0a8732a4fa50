"""The search for the form of surge-collapse: one change at a time, on data that no report uses.

    python benchmarks/search.py --list
    python benchmarks/search.py --variants base,surge-0.25 --seeds 4 --jobs 2

The nets and settings are those of the suite ``quick`` (MNIST-1D), but the samples come from another seed of the
generator: 4,000 for training, 10,000 to score. So what is chosen here has never seen the report's validation or test
set. Rows go to ``benchmarks/results/search.jsonl``; what is there already is not run again.
"""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _harness import append_row, make_parser, provenance, read_rows, single_thread

DATA_SEED = 43
FIRST_SEED = 20_000
RESULTS = Path(__file__).parent / "results" / "search.jsonl"


def _options(**values: Any) -> dict[str, Any]:
    return {"policy_options": values}


BASE: dict[str, Any] = {"policy": "entropy_cycles", "dropout": 0.1}
"""What every variant changes one thing of."""

LAYER: dict[str, Any] = {"allocation": "layer"}

SETTLE: dict[str, Any] = {
    "anneal": True, "full_depth_at": 0.6, "max_sparsity": 0.9, "cycles_until": 0.7, "freeze_at": 0.72, "floor": 0.0
}  # fmt: skip

LONG: dict[str, Any] = {
    "timing": "fixed", "phase": 0.1, "longest": 0.1, "cycles_until": 0.6, "freeze_at": 0.7, "floor": 0.0
}  # fmt: skip

LAND: dict[str, Any] = {**LONG, "cycles_until": 0.5, "freeze_at": 0.75, "final_ramp": "cubic"}

CYCLES: dict[str, Any] = {
    "timing": "fixed", "phase": 0.1, "cycles_until": 0.5, "freeze_at": 0.75, "final_ramp": "cubic", "floor": 0.6,
    "noise_std": 0.0,
}  # fmt: skip
"""The recipe that rounds 1 to 10 led to: collapses at once, the last one gradual."""

FAST: dict[str, Any] = {"lr": 1e-2}
"""From round 11 on; the rounds before it were at 3e-3, where every method is 1 to 5 points worse."""

WAVES: dict[str, Any] = {"dense_until": 0.05, "cycles": 4, "last_cycle_start": 0.5}


def _waves(**options: Any) -> dict[str, Any]:
    """Bounded by on/off entropy, down to half the target's density, unless said otherwise."""
    first = {"dense_until": 0.1, "cycles": 3, "last_cycle_start": 0.45, "surge": 0.5}
    own = {"measure": "on_off", "min_density_ratio": 0.5}
    return {"policy": "cyclic_pruning", "policy_options": {**first, **own, **options}, **FAST}


VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {"policy": "none", "dropout": 0.0},
    "dropout-0.2": {"policy": "none", "dropout": 0.2},
    "dropout-0.3": {"policy": "none", "dropout": 0.3},
    "acdc": {"policy": "acdc"},
    "gmp": {"policy": "gmp"},
    "rigl": {"policy": "rigl"},
    "base": {},
    "nodrop": {"dropout": 0.0},
    "drop-0.05": {"dropout": 0.05},
    "drop-0.15": {"dropout": 0.15},
    "surge-0.25": _options(surge=0.25),
    "surge-0.75": _options(surge=0.75),
    "surge-1": _options(surge=1.0),
    "floor-0": _options(floor=0.0),
    "floor-0.5": _options(floor=0.5),
    "floor-0.6": _options(floor=0.6),
    "nopump": _options(noise_std=0.0),
    "pump-0.2": _options(noise_std=0.2),
    "at-target": _options(max_sparsity=0.9),
    "deepest-0.97": _options(max_sparsity=0.97, floor=0.0),
    "deepest-0.95": _options(max_sparsity=0.95, floor=0.0),
    "fixed": _options(shortest=0.05, longest=0.05, floor=0.0, noise_std=0.0),
    "fixed-0.1": _options(shortest=0.1, longest=0.1, phase=0.1, floor=0.0, noise_std=0.0),
    "fixed-0.025": _options(shortest=0.025, longest=0.025, phase=0.025, floor=0.0, noise_std=0.0),
    "growth-random": _options(growth="random"),
    "growth-gradient": _options(growth="gradient"),
    "growth-momentum": _options(growth="momentum"),
    "initial-noise": _options(regrow_init="noise"),
    "initial-last": _options(regrow_init="last"),
    "moments-keep": {"optimizer_state": "keep"},
    "moments-warmup": {"optimizer_state": "warmup"},
    "erk": {"allocation": "erk"},
    "layer": {"allocation": "layer"},
    "min-0.02": {"min_density": 0.02},
    "min-0.05": {"min_density": 0.05},
    "taylor": {"saliency": "taylor"},
    "freeze-0.78": _options(freeze_at=0.78),
    "freeze-0.92": _options(freeze_at=0.92),
    "until-0.65": _options(cycles_until=0.65, freeze_at=0.75),
    "until-0.85": _options(cycles_until=0.85, freeze_at=0.92),
    "dense-0.25": _options(dense_until=0.25),
    "dense-0.4": _options(dense_until=0.4),
    "every-20": {"every": 20},
    # Second round: zeros spread evenly over layers, and what goes with that. Rivals may have it too.
    "layer-acdc": {"policy": "acdc", **LAYER},
    "layer-acdc-nodrop": {"policy": "acdc", "dropout": 0.0, **LAYER},
    "layer-gmp": {"policy": "gmp", **LAYER},
    "layer-granet": {"policy": "granet", **LAYER},
    "layer-nodrop": {"dropout": 0.0, **LAYER},
    "layer-drop-0.05": {"dropout": 0.05, **LAYER},
    "layer-drop-0.15": {"dropout": 0.15, **LAYER},
    "layer-fixed": {**_options(timing="fixed"), **LAYER},
    "layer-fixed-0.1": {**_options(timing="fixed", phase=0.1), **LAYER},
    "layer-until-0.65": {**_options(cycles_until=0.65, freeze_at=0.75), **LAYER},
    "layer-until-0.5": {**_options(cycles_until=0.5, freeze_at=0.6), **LAYER},
    "layer-fixed-0.1-until-0.65": {**_options(timing="fixed", phase=0.1, cycles_until=0.6, freeze_at=0.7), **LAYER},
    "layer-random": {**_options(timing="random"), **LAYER},
    "layer-growth-random": {**_options(growth="random"), **LAYER},
    "layer-surge-1": {**_options(surge=1.0), **LAYER},
    "layer-surge-0.75": {**_options(surge=0.75), **LAYER},
    "layer-at-target": {**_options(max_sparsity=0.9), **LAYER},
    "layer-deepest-0.97": {**_options(max_sparsity=0.97, floor=0.0), **LAYER},
    "layer-ramp-0.5": {**_options(full_depth_at=0.5), **LAYER},
    "layer-ramp-0.7": {**_options(full_depth_at=0.7), **LAYER},
    "ramp-0.5": _options(full_depth_at=0.5),
    # Third round, after the convolutions: gradual pruning beats every cycle there, so make the cycles settle.
    "gmp-nodrop": {"policy": "gmp", "dropout": 0.0},
    "ramp-0.7": _options(full_depth_at=0.7),
    "ramp-at-target": _options(full_depth_at=0.7, max_sparsity=0.9),
    "anneal": _options(anneal=True),
    "anneal-ramp": _options(anneal=True, full_depth_at=0.7),
    "settle": _options(**SETTLE),
    "settle-layer": {**_options(**SETTLE), **LAYER},
    "settle-1": _options(**{**SETTLE, "surge": 1.0}),
    "settle-0.25": _options(**{**SETTLE, "surge": 0.25}),
    "settle-short": _options(**{**SETTLE, "phase": 0.025, "longest": 0.05}),
    "settle-long": _options(**{**SETTLE, "phase": 0.1}),
    "settle-deep": _options(**{**SETTLE, "max_sparsity": 0.95}),
    "settle-nodrop": {**_options(**SETTLE), "dropout": 0.0},
    # Fourth round: long phases that end early, and one change of that.
    "long": _options(**LONG),
    "long-drop-0.2": {**_options(**LONG), "dropout": 0.2},
    "long-layer": {**_options(**LONG), **LAYER},
    "long-layer-nodrop": {**_options(**LONG), **LAYER, "dropout": 0.0},
    "long-layer-drop-0.05": {**_options(**LONG), **LAYER, "dropout": 0.05},
    "long-layer-at-target": {**_options(**{**LONG, "max_sparsity": 0.9}), **LAYER},
    "long-layer-anneal": {**_options(**{**LONG, "anneal": True}), **LAYER},
    "long-layer-0.15": {**_options(**{**LONG, "phase": 0.125, "longest": 0.125}), **LAYER},
    "long-layer-surge-1": {**_options(**{**LONG, "surge": 1.0}), **LAYER},
    "long-layer-surge-0.25": {**_options(**{**LONG, "surge": 0.25}), **LAYER},
    "long-layer-random-growth": {**_options(**{**LONG, "growth": "random"}), **LAYER},
    "long-at-target": _options(**{**LONG, "max_sparsity": 0.9}),
    "long-at-target-drop-0.2": {**_options(**{**LONG, "max_sparsity": 0.9}), "dropout": 0.2},
    "long-at-target-anneal": _options(**{**LONG, "max_sparsity": 0.9, "anneal": True}),
    "long-at-target-ramp": _options(**{**LONG, "max_sparsity": 0.9, "full_depth_at": 0.4}),
    "long-at-target-surge-1": _options(**{**LONG, "max_sparsity": 0.9, "surge": 1.0}),
    # Fifth round: after the cycles, down to the target step by step.
    "land": _options(**LAND),
    "land-at-target": _options(**{**LAND, "max_sparsity": 0.9}),
    "land-early": _options(**{**LAND, "cycles_until": 0.4}),
    "land-layer": {**_options(**LAND), **LAYER},
    "land-layer-drop-0.05": {**_options(**LAND), **LAYER, "dropout": 0.05},
    "land-layer-late": {**_options(**{**LAND, "cycles_until": 0.6, "freeze_at": 0.8}), **LAYER, "dropout": 0.05},
    "land-ramp": _options(**{**LAND, "full_depth_at": 0.4}),
    "land-surge-1": _options(**{**LAND, "surge": 1.0}),
    "land-drop-0.2": {**_options(**LAND), "dropout": 0.2},
    "land-05": _options(**{**LAND, "phase": 0.05}),
    "long-layer-0.15-drop-0.05": {**_options(**{**LONG, "phase": 0.125, "longest": 0.125}), **LAYER, "dropout": 0.05},
    "long-layer-0.25": {**_options(**{**LONG, "phase": 0.25, "longest": 0.25}), **LAYER},
    "long-layer-dense-0.2": {**_options(**{**LONG, "dense_until": 0.2}), **LAYER},
    # Sixth round, for the convolutions: gentler still.
    "gmp-drop-0.05": {"policy": "gmp", "dropout": 0.05},
    "settle-0.25-drop-0.05": {**_options(**{**SETTLE, "surge": 0.25}), "dropout": 0.05},
    "settle-0.1-short": _options(**{**SETTLE, "surge": 0.1, "timing": "fixed", "phase": 0.025}),
    "settle-0.25-short": _options(**{**SETTLE, "surge": 0.25, "timing": "fixed", "phase": 0.025}),
    "settle-0.25-late": _options(
        **{**SETTLE, "surge": 0.25, "full_depth_at": 0.75, "cycles_until": 0.75, "freeze_at": 0.77}
    ),
    "settle-0.25-short-late": _options(
        **{
            **SETTLE,
            "surge": 0.25,
            "timing": "fixed",
            "phase": 0.025,
            "full_depth_at": 0.75,
            "cycles_until": 0.75,
            "freeze_at": 0.77,
        }
    ),
    # Seventh round: what in the landing form earns it.
    "land-layer-at-target": {**_options(**{**LAND, "max_sparsity": 0.9}), **LAYER},
    "land-layer-deep": {**_options(**{**LAND, "max_sparsity": 0.975}), **LAYER},
    "land-layer-entropy": {**_options(**{**LAND, "timing": "entropy", "shortest": 0.05, "longest": 0.15}), **LAYER},
    "land-layer-random-growth": {**_options(**{**LAND, "growth": "random"}), **LAYER},
    "land-layer-surge-1": {**_options(**{**LAND, "surge": 1.0}), **LAYER},
    "land-layer-nodrop": {**_options(**LAND), **LAYER, "dropout": 0.0},
    "land-layer-early": {**_options(**{**LAND, "cycles_until": 0.4}), **LAYER},
    "land-layer-long": {**_options(**{**LAND, "cycles_until": 0.4, "freeze_at": 0.85}), **LAYER},
    # Eighth round, for the convolutions: cycles that stay above the target's sparsity until the landing.
    "land-at-target-ramp": _options(**{**LAND, "max_sparsity": 0.9, "full_depth_at": 0.5}),
    "land-at-target-dense-0.25": _options(**{**LAND, "max_sparsity": 0.9, "dense_until": 0.25}),
    "land-at-target-short": _options(**{**LAND, "max_sparsity": 0.9, "cycles_until": 0.3}),
    "gmp-drop-0.2": {"policy": "gmp", "dropout": 0.2},
    "acdc-drop-0.2": {"policy": "acdc", "dropout": 0.2},
    # Ninth round: is it the schedule of gradual pruning, what a surge brings back, or which weights go?
    "gmp-until-0.5": {"policy": "gmp", **_options(end_at=0.5)},
    "gmp-until-0.9": {"policy": "gmp", **_options(end_at=0.9)},
    "gmp-from-0.2": {"policy": "gmp", **_options(start_at=0.2)},
    "settle-0.25-last": _options(**{**SETTLE, "surge": 0.25, "regrow_init": "last"}),
    "settle-0.25-keep": {**_options(**{**SETTLE, "surge": 0.25}), "optimizer_state": "keep"},
    "settle-0.05-short": _options(**{**SETTLE, "surge": 0.05, "timing": "fixed", "phase": 0.025}),
    "gmp-lamp": {"policy": "gmp", "saliency": "lamp"},
    "acdc-lamp": {"policy": "acdc", "saliency": "lamp"},
    "settle-0.25-lamp": {**_options(**{**SETTLE, "surge": 0.25}), "saliency": "lamp"},
    "land-lamp": {**_options(**LAND), "saliency": "lamp"},
    # Tenth round: 98% sparse, where AC/DC is ahead.
    "recipe-layer": {"policy_options": CYCLES, **LAYER},
    "recipe-layer-surge-1": {"policy_options": {**CYCLES, "surge": 1.0}, **LAYER},
    "recipe-layer-floor-1": {"policy_options": {**CYCLES, "floor": 1.0}, **LAYER},
    "recipe-layer-landing-0.85": {"policy_options": {**CYCLES, "freeze_at": 0.85}, **LAYER},
    "recipe-layer-late": {"policy_options": {**CYCLES, "cycles_until": 0.7, "freeze_at": 0.85}, **LAYER},
    "recipe-layer-short-landing": {"policy_options": {**CYCLES, "cycles_until": 0.6, "freeze_at": 0.65}, **LAYER},
    "recipe-layer-drop": {"policy_options": {**CYCLES, "final_ramp": "none"}, **LAYER},
    "recipe-layer-drop-0.05": {"policy_options": CYCLES, **LAYER, "dropout": 0.05},
    # Eleventh round: at a learning rate of .01.
    "fast-dropout-0.2": {"policy": "none", "dropout": 0.2, **FAST},
    **{
        f"fast-{name}{end}": {**settings, **spread, **FAST}
        for name, settings in {
            "gmp": {"policy": "gmp"},
            "acdc": {"policy": "acdc"},
            "cycles": _options(**CYCLES),
            "cycles-at-target": _options(**{**CYCLES, "floor": 1.0}),
        }.items()
        for end, spread in {"": {}, "-layer": LAYER, "-lamp": {"saliency": "lamp"}}.items()
    },
    # Twelfth round: waves. The number is how many; floor 0 is always deep, 1 never deeper than the target.
    **{
        f"waves-{count}-floor-{floor:g}{end}": {
            **_waves(
                **(
                    {}
                    if count == 3
                    else {**WAVES, "cycles": count, **({"settle_fraction": 0.015} if count == 5 else {})}
                ),
                floor=floor,
            ),
            **spread,
        }
        for count in (3, 4, 5)
        for floor in (0.0, 0.3, 0.6, 1.0)
        for end, spread in {"": {}, "-layer": LAYER, "-lamp": {"saliency": "lamp"}}.items()
    },
    "waves-4-surge-0.35-layer": {**_waves(**WAVES, floor=0.3, surge=0.35), **LAYER},
    # Thirteenth round: deeper waves, for 80, 90 and 95%; the number is the share of the target's density.
    "fast-rigl-layer": {"policy": "rigl", **_options(allocation="layer"), **FAST},
    **{
        f"waves-4-thinnest-{share:g}": {**_waves(**WAVES, floor=0.3, surge=0.35, min_density_ratio=share), **LAYER}
        for share in (0.165, 0.25, 0.33, 0.34)
    },
    # Fourteenth round: bounded by how certain the predictions on the probe batch still are.
    **{
        f"waves-4-certainty-{floor:g}-thinnest-{share:g}{end}": {
            **_waves(**WAVES, floor=floor, surge=0.35, min_density_ratio=share, measure="prediction_confidence"),
            **spread,
        }
        for floor in (0.5, 0.6, 0.7, 0.8)
        for share in (0.05, 0.1, 0.2)
        for end, spread in {"-layer": LAYER, "-lamp": {"saliency": "lamp"}}.items()
    },
    "waves-4-certainty-0.6-drop-0.2-layer": {
        **_waves(**WAVES, floor=0.6, surge=0.35, min_density_ratio=0.1, measure="prediction_confidence"),
        **LAYER,
        "dropout": 0.2,
    },
    "waves-4-surge-0.35-floor-1-lamp": {**_waves(**WAVES, floor=1.0, surge=0.35), "saliency": "lamp"},
}


@lru_cache(maxsize=1)
def data() -> Any:
    """The set of the search: the published generator with another seed."""
    x, y = generated(14_000, DATA_SEED)
    return x[:4_000], y[:4_000], x[4_000:], y[4_000:]


def generated(samples: int, seed: int) -> tuple[Any, Any]:
    """MNIST-1D by the published generator."""
    import numpy as np
    import torch
    from mnist1d.data import get_dataset_args, make_dataset

    settings = get_dataset_args()
    settings.num_samples, settings.train_split, settings.seed = samples, 1.0, seed
    made = make_dataset(settings)
    x = torch.from_numpy(np.asarray(made["x"], dtype=np.float32)).unsqueeze(1)
    return x, torch.from_numpy(np.asarray(made["y"], dtype=np.int64))


def run(
    name: str, changes: dict[str, Any], model: str, sparsity: float, seed: int, sets: Any = None, steps: int = 4_000
) -> dict[str, Any]:
    """Train one net; accuracy in percent on the 10,000 samples, or on ``sets`` (x and y to train, x and y to score)."""
    import torch

    from surgecollapse import Readings, Target, Updates, attach
    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.building import build_model
    from surgecollapse.lab.training.evaluation import predict
    from surgecollapse.lab.training.loading import load_data
    from surgecollapse.lab.training.optim import make_optimizer, rate_factor
    from surgecollapse.lab.training.sampler import Batches
    from surgecollapse.policies import make_policy

    torch.set_num_threads(1)
    began = time.perf_counter()
    widths = {"mlp": (256, 256), "cnn": (64, 64, 64)}[model]
    settings = {"sparsity": sparsity, **BASE, **changes}
    if settings.get("policy") == "none":
        del settings["sparsity"]
    config = make_config(task="mnist1d", model=model, widths=widths, seed=seed, **settings)
    x, y, x_test, y_test = sets or data()
    torch.manual_seed(seed)
    net = build_model(config, load_data(config))
    optimizer = make_optimizer(config, net)
    controller = None
    if config.method.policy != "none":
        controller = attach(
            net,
            optimizer,
            sparsity=Target(sparsity, allocation=config.method.allocation, min_density=config.method.min_density),
            total_steps=steps,
            policy=make_policy(config.method.policy, **config.method.policy_options),
            readings=Readings(every=config.method.every),
            seed=seed,
            updates=Updates(optimizer_state=config.method.optimizer_state, saliency=config.method.saliency),
        )
    batches, density = Batches(len(y), config.run.batch_size, seed), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * rate_factor(
                step, steps, schedule=config.optimizer.schedule, warmup=config.optimizer.warmup
            )
        rows = next(batches)
        net.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
        density += 1.0 - (controller.sparsity if controller is not None else 0.0)
    kinds: list[str] = []
    if controller is not None:
        controller.finalize()
        kinds = [event.kind for event in controller.events]
        controller.detach()
    net.eval()
    return {
        "variant": name,
        "model": model,
        "sparsity": sparsity,
        "seed": seed,
        "accuracy": 100 * (predict(net, x_test).argmax(1) == y_test).double().mean().item(),
        "train": 100 * (predict(net, x).argmax(1) == y).double().mean().item(),
        "density": density / steps,
        "collapses": kinds.count("collapse"),
        "surges": kinds.count("surge"),
        "seconds": time.perf_counter() - began,
        **provenance(config),
    }


def main() -> None:
    """Run what is missing and print the table."""
    parser = make_parser(__doc__, out=None, seeds=4)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--model", default="mlp", choices=["mlp", "cnn"])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--list", action="store_true", help="print the table of what is there, and run nothing")
    given = parser.parse_args()
    names = given.variants.split(",")
    rows = read_rows(RESULTS)
    there = {(row["variant"], row["model"], row["sparsity"], row["seed"]) for row in rows}
    wanted = [
        (name, VARIANTS[name], given.model, given.sparsity, FIRST_SEED + i)
        for i in range(given.seeds)
        for name in names
    ]
    missing = [] if given.list else [job for job in wanted if (job[0], *job[2:]) not in there]
    single_thread()
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, *job) for job in missing]):
            rows.append(done.result())
            append_row(RESULTS, rows[-1])
            print(f"{len(rows)} rows: {rows[-1]['variant']} {rows[-1]['seed']}: {rows[-1]['accuracy']:.2f}", flush=True)
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["model"] == given.model and row["sparsity"] == given.sparsity:
            found.setdefault(row["variant"], {})[row["seed"]] = row
    print(table(found))


def table(found: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Markdown, best first; differences to ``base`` are paired, ± one standard error."""
    base = found.get("base", {})
    lines = [
        "| variant | accuracy | minus base | density | train | seeds |",
        "|---|---|---|---|---|---|",
    ]
    ranked = sorted(found.items(), key=lambda item: -statistics.mean(row["accuracy"] for row in item[1].values()))
    for name, runs in ranked:
        mean = {key: statistics.mean(row[key] for row in runs.values()) for key in ("accuracy", "density", "train")}
        paired = [row["accuracy"] - base[seed]["accuracy"] for seed, row in runs.items() if seed in base]
        error = statistics.stdev(paired) / len(paired) ** 0.5 if len(paired) > 1 else float("nan")
        difference = f"{statistics.mean(paired):+.2f} ± {error:.2f}" if paired else "–"
        lines.append(
            f"| {name} | {mean['accuracy']:.2f} | {difference} | {mean['density']:.3f} | "
            f"{mean['train']:.1f} | {len(runs)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
