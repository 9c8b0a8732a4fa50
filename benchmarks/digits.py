"""Addition of three digits by a small GPT: steps until 95% of new sums are right in all their digits.

    python benchmarks/digits.py --size small --method one-setting --seeds 3
    python benchmarks/digits.py --size full --device cuda --method one-setting adamw muon --seeds 5    # on a GPU
    python benchmarks/grokking_records.py                                    # write docs/records-grokking.md

A row of text is ``abc+def=`` and the four digits of the sum, the last one first, as Lee et al. (arXiv 2307.03381) have
them reversed. 10,000 pairs are trained on, 2,000 others are the validation set; the loss is that of the answer alone. A
sum is right if each of its digits is the likeliest one, given the right digits before it: what greedy decoding gives.
``full`` is nanoGPT's size for this task: six layers, width 384, 10.6 million parameters, forward passes in bfloat16 as
nanoGPT has them. ``full-64`` is the same net in float32 with a quarter of the batch; ``small`` has two layers of width
128. Optimizers are those of
``grokking_records.py``; ``adamw`` has nanoGPT's settings. A finished run is one row.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from _harness import append_row, make_parser, read_rows, single_thread
from grokking_records import DIGITS_ROWS, METHODS, settings

SIZES: dict[str, dict[str, Any]] = {
    "small": {"layers": 2, "width": 128, "hidden": 512, "heads": 4, "batch": 128},
    "full": {"layers": 6, "width": 384, "hidden": 1536, "heads": 6, "batch": 256, "precision": "bfloat16"},
    "full-64": {"layers": 6, "width": 384, "hidden": 1536, "heads": 6, "batch": 64},
}
_NANO = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.1, "beta2": 0.99, "warmup": 100}
CHOICES = ("one-setting", "muon", "adamw", "ema", "clip-to-grok", "egd", "orthograd")
"""All of ``grokking_records.py`` but those on the sphere, whose residual stream is another network."""
TRAIN, VALIDATION = 10_000, 2_000
DIGITS, PLUS, EQUALS = 3, 10, 11


def text(a: Any, b: Any) -> Any:
    """Rows of tokens (n, 12) for numbers (n,) of up to three digits.

    >>> import torch
    >>> text(torch.tensor([905]), torch.tensor([98])).tolist()
    [[9, 0, 5, 10, 0, 9, 8, 11, 3, 0, 0, 1]]
    """
    import torch

    def digits(x: Any, count: int) -> list[Any]:
        return [x // 10**k % 10 for k in range(count)]

    sign, equals = torch.full_like(a, PLUS), torch.full_like(a, EQUALS)
    columns = [*digits(a, DIGITS)[::-1], sign, *digits(b, DIGITS)[::-1], equals, *digits(a + b, DIGITS + 1)]
    return torch.stack(columns, 1)


def pairs(seed: int) -> tuple[Any, Any]:
    """Training and validation rows, of different pairs."""
    import torch

    draws = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(1_000_000, generator=draws)[: TRAIN + VALIDATION]
    rows = text(drawn // 1000, drawn % 1000)
    return rows[:TRAIN], rows[TRAIN:]


def keys(method: str) -> dict[str, Any]:
    """Settings of the optimizer and what goes with it."""
    found = settings("addition", method)
    return {**found, **_NANO} if method == "adamw" else found


def train(
    size: str, method: str, seed: int, steps: int, device: str, *, policy: str = "", sparsity: float = 0.0
) -> dict[str, Any]:
    """One run, until three evaluations on end are at 95% or the last step; with a policy also until its mask is final.

    Readings of the policy are at every 40th part of the steps.
    """
    import torch
    from grokking_tracks.runs import Run
    from torch.nn import functional as F

    from surgecollapse import attach, average_weights, clip_rows, transform_gradients
    from surgecollapse.controller.options import Readings
    from surgecollapse.forecast.times import GENERALIZE, IN_A_ROW
    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.nets.gpt import GPT
    from surgecollapse.lab.training.building import scale_first_weights
    from surgecollapse.lab.training.optim import bounded_rows, make_optimizer, make_transforms, rate_factor

    shape = {key: value for key, value in SIZES[size].items() if key not in ("batch", "precision")}
    autocast = partial(torch.autocast, device, torch.bfloat16, enabled=SIZES[size].get("precision") == "bfloat16")
    config = make_config(**keys(method), seed=seed)
    torch.manual_seed(seed)
    train_rows, validation = (rows.to(device) for rows in pairs(seed))
    model = GPT(12, train_rows.shape[1] - 1, **shape)
    scale_first_weights(model, config.model)
    model.to(device)
    optimizer, transforms = make_optimizer(config, model), make_transforms(config, model)
    controller = None
    if policy:
        readings = Readings(every=max(1, steps // 40))
        controller = attach(
            model, optimizer, sparsity, steps, policy=policy, readings=readings, transforms=transforms, seed=seed
        )
    elif transforms:
        transform_gradients(optimizer, transforms)
    if config.transforms.max_row_norm is not None:
        clip_rows(optimizer, config.transforms.max_row_norm, parameters=bounded_rows(model))
    decay = config.transforms.ema_decay
    averaged = average_weights(model, optimizer, decay=decay, controller=controller) if decay else None
    answer = slice(2 * DIGITS + 1, None)

    def right(rows: Any) -> float:
        model.eval()
        with torch.no_grad(), autocast():
            found = torch.cat([model(part[:, :-1])[:, answer].argmax(2) for part in rows.split(1_000)])
        model.train()
        return float((found == rows[:, 1:][:, answer]).all(1).double().mean())

    draws = torch.Generator().manual_seed(seed + 1)
    began, at, seen, zeros = time.process_time(), [], [], []
    for step in range(steps):
        rate = config.optimizer.lr * rate_factor(step, steps, schedule="constant", warmup=config.optimizer.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        rows = train_rows[torch.randint(TRAIN, (SIZES[size]["batch"],), generator=draws).to(device)]
        optimizer.zero_grad()
        with autocast():
            logits = model(rows[:, :-1])[:, answer]
        F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:][:, answer].flatten()).backward()
        optimizer.step()
        if (step + 1) % 25:
            continue
        at.append(step + 1)
        if averaged is None:
            seen.append(right(validation))
        else:
            with averaged.applied():
                seen.append(right(validation))
        if controller is not None:
            zeros.append(controller.sparsity)
            if not controller.frozen:
                continue
        if len(seen) >= IN_A_ROW and min(seen[-IN_A_ROW:]) >= GENERALIZE:
            break
    found = Run(at, seen, time.process_time() - began, zeros if policy else None)
    return {**found.row, "parameters": sum(p.numel() for p in model.parameters())}


def listed(size: str, method: str, steps: int, device: str) -> dict[str, Any]:
    """The configuration of a run, for its row."""
    chosen = {key: value for key, value in keys(method).items() if key in _OPTIMIZER}
    return {**SIZES[size], **chosen, "steps": steps, "device": device}


def main() -> int:
    """Train what has no row yet."""
    parser = make_parser(__doc__, out=DIGITS_ROWS, seeds=3)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--method", nargs="*", choices=CHOICES, default=["one-setting"], help="by these methods")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5_000, help="after which a run has failed")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    assert set(CHOICES) <= set(METHODS)
    if given.device == "cpu":
        single_thread()
    done = {(row["track"], row["method"], row["seed"]) for row in read_rows(Path(given.out))}
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for method in given.method:
            track = f"digits-{given.size}"
            if (track, method, seed) in done:
                continue
            row = {"track": track, "method": method, "seed": seed}
            row |= train(given.size, method, seed, given.steps, given.device)
            row["config"] = listed(given.size, method, given.steps, given.device)
            append_row(given.out, row)
            print(f"{track}, {method}, seed {seed}: {row['reached'] or '–'} steps, {row['seconds']:.0f} s", flush=True)
    return 0


_OPTIMIZER = {*METHODS["one-setting"], "warmup", "max_row_norm", "init_row_norm", "equalize_spectrum", "orthograd"}


if __name__ == "__main__":
    sys.exit(main())
