"""Which way to spread zeros over layers is safe as a default? Seven networks at 90%, six allocations, paired seeds.

    python benchmarks/allocation.py --seeds 3

The rule was written before the runs. On each network an allocation's *regret* is the best mean held-out accuracy of any
allocation minus its own, as a share of dense accuracy above chance, in percent. The safe default is the allocation
whose largest regret over the networks is least. Beside it stands the least density that any layer was left with.

Networks are as their users build them, the initial values included (GPT-2, T5 and ViT from ``transformers``). Every
run has the default policy, AdamW and a cosine schedule; nothing is tuned for any allocation. A run that is there
already is not repeated, so that an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from _harness import append_row, described, make_parser, origin, publish, read_rows, single_thread, table

single_thread()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import surgecollapse as sc  # noqa: E402

SPARSITY, BATCH = 0.9, 64
Split = tuple[Tensor, Tensor, Tensor, Tensor]


def scaled(weight: Tensor, signal: Tensor | None = None) -> Tensor:
    """Magnitude over the mean magnitude of the layer's open weights."""
    del signal
    size = weight.detach().abs()
    return size / size.sum().clamp_min(torch.finfo(size.dtype).tiny) * (size > 0).sum()


ALLOCATIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "global": ({}, "magnitude"),
    "global, minimum 5%": ({"min_density": 0.05}, "magnitude"),
    "global, scaled by layer": ({}, scaled),
    "LAMP": ({}, "lamp"),
    "even": ({"allocation": "layer"}, "magnitude"),
    "ERK": ({"allocation": "erk"}, "magnitude"),
}
"""Options of :class:`~surgecollapse.Target`, and the saliency."""


# --- Data: training inputs and labels, held-out inputs and labels -----------------------------------------------------


@lru_cache
def curves() -> Split:
    """MNIST-1D."""
    from surgecollapse.lab.data.mnist1d import mnist1d

    data = mnist1d()
    return data.x_train, data.y_train, data.x_validation, data.y_validation


@lru_cache
def digits() -> Split:
    """Handwritten digits of 8 × 8 pixels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    images, labels = (torch.tensor(x, dtype=torch.float32) / 8 - 1).view(-1, 1, 8, 8)[order], torch.tensor(y)[order]
    return images[:1000], labels[:1000], images[1000:], labels[1000:]


@lru_cache
def text() -> Split:
    """Windows of 32 characters and the characters that follow."""
    from surgecollapse.lab.data.kjv import kjv

    data = kjv(length=32)
    return data.x_train, data.y_train, data.x_validation[:512], data.y_validation[:512]


@lru_cache
def counts() -> Split:
    """How often does each of 16 tokens stand in its row? Up to five times."""
    rows = torch.randint(12, (6_000, 16), generator=torch.Generator().manual_seed(0))
    times = (rows.unsqueeze(1) == rows.unsqueeze(2)).sum(2).clamp(max=5) - 1
    return rows[:5_000], times[:5_000], rows[5_000:], times[5_000:]


@lru_cache
def sorting() -> Split:
    """Eight tokens of 30, and the same in their order."""
    random = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(30, generator=random)[:8] + 2 for _ in range(6_000)])
    inorder = rows.sort(1).values
    return rows[:5_000], inorder[:5_000], rows[5_000:], inorder[5_000:]


# --- Networks ---------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` between an embedding and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 48)
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(48, 5)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the count of every token."""
        return self.head(self.encoder(self.embed(ids)))


def grouped() -> nn.Module:
    """Grouped, depthwise and pointwise convolutions."""

    def block(inputs: int, outputs: int, groups: int, size: int = 3) -> list[nn.Module]:
        kernel = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
        return [kernel, nn.BatchNorm2d(outputs), nn.ReLU()]

    parts = [*block(1, 32, 1), *block(32, 32, 4), nn.MaxPool2d(2), *block(32, 32, 32), *block(32, 64, 1, 1)]
    return nn.Sequential(*parts, *block(64, 64, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def convolutions() -> nn.Module:
    """Three strided convolutions, as for MNIST-1D in its paper."""
    parts: list[nn.Module] = []
    for inputs in (1, 25, 25):
        parts += [nn.Conv1d(inputs, 25, 5 if inputs == 1 else 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(10))


def gpt() -> nn.Module:
    """GPT-2, small."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 128, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32}
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **rates, bos_token_id=0, eos_token_id=0))


def vit() -> nn.Module:
    """ViT on patches of 2 × 2 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return ViTForImageClassification(
        ViTConfig(**sizes, **rates, image_size=8, patch_size=2, num_channels=1, num_labels=10)
    )


def t5() -> nn.Module:
    """T5, small."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 32, "d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0))


@dataclass(frozen=True)
class Network:
    """A network, its data, and how it is called."""

    build: Callable[[], nn.Module]
    data: Callable[[], Split]
    chance: float
    steps: int = 500
    lr: float = 3e-3
    call: Callable[[nn.Module, Tensor, Tensor], Tensor] = lambda net, x, y: net(x)  # noqa: ARG005


def _mlp() -> nn.Module:
    sizes = (40, 256, 256)
    hidden = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))


NETWORKS = {
    "MLP, MNIST-1D": Network(_mlp, curves, 10.0),
    "CNN, MNIST-1D": Network(convolutions, curves, 10.0, 600),
    "grouped convolutions, digits": Network(grouped, digits, 10.0, 250),
    "ViT, digits": Network(vit, digits, 10.0, 300, 2e-3, lambda net, x, y: net(pixel_values=x).logits),  # noqa: ARG005
    "nn.TransformerEncoder, counting": Network(Encoder, counts, 40.0, 400, 2e-3),
    "GPT-2, text": Network(gpt, text, 16.0, 250, 3e-3, lambda net, x, y: net(input_ids=x).logits),  # noqa: ARG005
    "T5, sorting": Network(t5, sorting, 100 / 30, 300, 3e-3, lambda net, x, y: net(input_ids=x, labels=y).logits),
}


# --- Runs -------------------------------------------------------------------------------------------------------------


def run(network: str, allocation: str, seed: int) -> dict[str, Any]:
    """Train one network; ``dense``: without pruning."""
    spec, began = NETWORKS[network], time.process_time()
    x, y, x_held, y_held = spec.data()
    torch.manual_seed(seed)
    net = spec.build()
    net(x[:2]) if network.startswith("CNN") else None  # sets the size of the lazy layer
    optimizer = torch.optim.AdamW(net.parameters(), spec.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / spec.steps)))
    controller = None
    if allocation != "dense":
        options, saliency = ALLOCATIONS[allocation]
        target, updates = sc.Target(SPARSITY, **options), sc.Updates(saliency=saliency)
        readings = sc.Readings(every=10)
        controller = sc.attach(net, optimizer, target, spec.steps, updates=updates, readings=readings, seed=seed)
    rows = torch.Generator().manual_seed(seed)
    for _ in range(spec.steps):
        chosen = torch.randint(len(x), (BATCH,), generator=rows)
        logits = spec.call(net, x[chosen], y[chosen])
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, -2), y[chosen].flatten()).backward()
        optimizer.step()
        schedule.step()
    least = 1.0
    if controller is not None:
        controller.finalize()
        least = min(float(mask.float().mean()) for mask in controller.masks.values())
    net.eval()
    with torch.no_grad():
        right = (spec.call(net, x_held, y_held).argmax(-1) == y_held).float().mean()
    return {
        "network": network, "allocation": allocation, "seed": seed, "accuracy": 100 * float(right), "least": least,
        "cpu": time.process_time() - began,
    }  # fmt: skip


def complete(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the networks and seeds under which every allocation has run: comparisons are paired."""
    kinds = {(network, seed): set[str]() for network in NETWORKS for seed in {row["seed"] for row in rows}}
    for row in rows:
        kinds[row["network"], row["seed"]].add(row["allocation"])
    return [row for row in rows if len(kinds[row["network"], row["seed"]]) == 1 + len(ALLOCATIONS)]


def mean(rows: list[dict[str, Any]], network: str, allocation: str, key: str = "accuracy") -> float:
    """Mean over seeds."""
    return statistics.mean(row[key] for row in rows if (row["network"], row["allocation"]) == (network, allocation))


def regret(rows: list[dict[str, Any]], network: str, allocation: str) -> float:
    """Share, in percent, of dense accuracy above chance that is lost against the best allocation."""
    best = max(mean(rows, network, other) for other in ALLOCATIONS)
    reach = mean(rows, network, "dense") - NETWORKS[network].chance
    return 100 * (best - mean(rows, network, allocation)) / reach


def page(rows: list[dict[str, Any]], report: dict[str, Any]) -> str:
    """The results as Markdown."""

    def cell(network: str, allocation: str) -> str:
        values = [row["accuracy"] for row in rows if (row["network"], row["allocation"]) == (network, allocation)]
        return (
            f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"
        )

    kinds = ("dense", *ALLOCATIONS)
    lines = ["# Allocations", *described(report), f"Held-out accuracy in percent at {SPARSITY:.0%} sparsity, mean and"]
    lines += ["standard deviation over paired seeds.", ""]
    seeds = {name: str(len({row["seed"] for row in rows if row["network"] == name})) for name in NETWORKS}
    body = [[name, seeds[name], *(cell(name, kind) for kind in kinds)] for name in NETWORKS]
    lines += table(["network", "seeds", *kinds], body)
    lines += [
        "",
        "Regret: the best allocation's accuracy minus this one's, in percent of dense accuracy above chance.",
        "",
    ]
    found = {kind: [regret(rows, name, kind) for name in NETWORKS] for kind in ALLOCATIONS}
    body = [[name, *(f"{found[kind][i]:.1f}" for kind in ALLOCATIONS)] for i, name in enumerate(NETWORKS)]
    body += [["**largest**", *(f"**{max(found[kind]):.1f}**" for kind in ALLOCATIONS)]]
    body += [["mean", *(f"{statistics.mean(found[kind]):.1f}" for kind in ALLOCATIONS)]]
    lines += table(["network", *ALLOCATIONS], body)
    lines += ["", "Least density of any layer, in percent, mean over seeds.", ""]
    body = [[name, *(f"{100 * mean(rows, name, kind, 'least'):.1f}" for kind in ALLOCATIONS)] for name in NETWORKS]
    lines += table(["network", *ALLOCATIONS], body)
    return "\n".join([*lines, "", f"{sum(row['cpu'] for row in rows) / 60:.0f} minutes of one processor core."])


def main() -> None:
    """Run what is missing, print and write ``benchmarks/results/allocation.{json,md}``."""
    parser = make_parser(__doc__, seeds=3)
    parser.add_argument("--rows", type=Path, default=Path("runs/allocation.jsonl"), help="where finished runs are kept")
    parser.add_argument("--only-publish", action="store_true", help="run nothing: publish what is there")
    options = parser.parse_args()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["network"], row["allocation"], row["seed"]) for row in read_rows(options.rows)}
    warnings.simplefilter("ignore")
    for seed in range(options.seeds):
        for network in NETWORKS:
            for allocation in ("dense", *ALLOCATIONS):
                if (network, allocation, seed) not in done and not options.only_publish:
                    append_row(options.rows, run(network, allocation, seed))
    rows = complete([row for row in read_rows(options.rows) if row["seed"] < options.seeds])
    if missing := [name for name in NETWORKS if name not in {row["network"] for row in rows}]:
        parser.error(f"{options.rows} lacks a seed with all allocations of {', '.join(missing)}: nothing to publish")
    import transformers

    report = {**origin(1, transformers=transformers.__version__), "seeds": options.seeds, "sparsity": SPARSITY}
    publish(options.out / "allocation", {**report, "rows": rows}, page(rows, report))


if __name__ == "__main__":
    main()
