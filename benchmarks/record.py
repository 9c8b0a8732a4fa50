"""The search for the record: settings that bring Grokfast's transformer to 95% in the fewest steps.

    pip install "surgecollapse[tune]"
    python benchmarks/record.py --seconds 1800

Samples the settings of ``SPACE`` (optuna's TPE), trains each on seeds from 1000 on, which no report uses, and writes
one line a trial. Nothing is recorded in a run store, so that a trial costs little more than its steps; the numbers of
the report come from ``benchmarks/grokking.py``. A trial is worth the mean over seeds of the step, interpolated between
evaluations, from which three evaluations on end are at 95% validation accuracy; one that never gets there is ranked by
its best accuracy. A seed that lags ends its trial early.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import optuna
from _harness import append_row, make_parser, provenance, single_thread

from surgecollapse import average_weights
from surgecollapse.forecast.times import GENERALIZE, IN_A_ROW
from surgecollapse.lab.config import RunConfig, as_mapping, flat_values, make_config
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.evaluation import predict
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss, make_optimizer, rate_factor
from surgecollapse.lab.training.sampler import Batches

SEEDS = (1000, 1001, 1002)
LIMIT, EVERY = 130, 5
LAGS = {75: 0.03, 85: 0.1, 95: 0.3, 105: 0.7}
"""A run whose validation accuracy is below that at that step is given up."""
HOPELESS = 108
"""A trial whose first seed takes longer than that is not tried on the others."""


def sample(trial: optuna.Trial) -> dict[str, Any]:
    """One setting out of the space."""
    return {
        "lr": trial.suggest_float("lr", 2e-3, 2e-2, log=True),
        "muon_lr": trial.suggest_float("muon_lr", 0.25, 1.5, log=True),
        "embedding_lr": trial.suggest_float("embedding_lr", 1.0, 4.0, log=True),
        "embedding_scale": trial.suggest_float("embedding_scale", 0.04, 0.5, log=True),
        "position_scale": trial.suggest_float("position_scale", 0.02, 1.0, log=True),
        "position_lr": trial.suggest_float("position_lr", 0.05, 1.0, log=True),
        "ema_decay": trial.suggest_float("ema_decay", 0.6, 0.9),
        "scale_partial_batches": trial.suggest_categorical("scale_partial_batches", [True, False]),
        "weight_decay": trial.suggest_float("weight_decay", 0.5, 4.0, log=True),
        "momentum": trial.suggest_float("momentum", 0.6, 0.95),
        "muon_beta1": trial.suggest_float("muon_beta1", 0.6, 0.9),
        "beta2": trial.suggest_float("beta2", 0.8, 0.98),
        "warmup": trial.suggest_int("warmup", 5, 25),
        "muon_tokens": trial.suggest_categorical("muon_tokens", [True, False]),
        "decay_vectors": trial.suggest_categorical("decay_vectors", [True, False]),
    }


def steps_to_generalize(config: RunConfig) -> float:
    """Train one seed; the step of sustained 95%, or more than ``LIMIT``: the more, the less accurate it was."""
    data = load_data(config)
    model = build_model(config, data)
    optimizer, loss = make_optimizer(config, model), make_loss(config, data)
    averaged = average_weights(model, optimizer, decay=config.transforms.ema_decay)
    batches = Batches(len(data.x_train), config.run.batch_size, (config.run.seed + 0xBA7C4) % 2**63)
    seen: list[float] = []
    for step in range(LIMIT):
        rate = config.optimizer.lr * rate_factor(
            step, LIMIT, schedule=config.optimizer.schedule, warmup=config.optimizer.warmup
        )
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        rows = next(batches)
        optimizer.zero_grad()
        weight = len(rows) / config.run.batch_size if config.run.scale_partial_batches else 1.0
        (weight * loss(model(data.x_train[rows]), data.y_train[rows])).backward()
        optimizer.step()
        if (step + 1) % EVERY == 0:
            with averaged.applied():
                right = predict(model, data.x_validation).argmax(dim=1) == data.y_validation
            seen.append(right.double().mean().item())
            if len(seen) >= IN_A_ROW and min(seen[-IN_A_ROW:]) >= GENERALIZE:
                return crossing(seen)
            if seen[-1] < LAGS.get(step + 1, 0.0):
                break
    return LIMIT + 70 * (1 - max(seen))


def crossing(seen: list[float]) -> float:
    """Step at which the last ``IN_A_ROW`` evaluations began to be at 95%, between two evaluations."""
    first = len(seen) - IN_A_ROW
    if first == 0:
        return float(EVERY)
    below, above = seen[first - 1], seen[first]
    share = 1.0 if below >= GENERALIZE else (GENERALIZE - below) / (above - below)
    return EVERY * (first + share)


def main() -> None:
    """Search for some time, and print the best."""
    parser = make_parser(__doc__, out=Path("record-search.jsonl"))
    parser.add_argument("--seconds", type=float, default=1_800, help="time of the search")
    parser.add_argument("--trials", type=int, help="most trials")
    parser.add_argument("--sampler-seed", type=int, default=0, help="seed of the sampler")
    options = parser.parse_args()
    single_thread()

    def objective(trial: optuna.Trial) -> float:
        settings, values, began = sample(trial), [], time.perf_counter()
        for seed in SEEDS:
            config = make_config(task="grokfast-modular-record", seed=seed, **settings)
            values.append(steps_to_generalize(config))
            if values[-1] > HOPELESS:
                break
        row = {"trial": trial.number, "steps": [round(value, 1) for value in values], "settings": settings}
        row |= provenance(config)
        append_row(options.out, row)
        print(f"trial {trial.number}: {row['steps']}, {time.perf_counter() - began:.0f} s", flush=True)
        return sum(values) / len(values)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(multivariate=True, seed=options.sampler_seed)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(known())
    study.optimize(objective, timeout=options.seconds, n_trials=options.trials)
    print(f"best: {study.best_value:.1f} steps\n{json.dumps(study.best_params, indent=2)}")


def known() -> dict[str, Any]:
    """The frozen setting, as the first trial."""
    config = make_config(task="grokfast-modular-record")
    keys = (
        "lr muon_lr embedding_lr embedding_scale position_scale position_lr ema_decay scale_partial_batches "
        "weight_decay momentum muon_beta1 beta2 warmup muon_tokens decay_vectors"
    )
    values = flat_values(as_mapping(config))
    return {key: values[key] for key in keys.split()}


if __name__ == "__main__":
    main()
