"""What linear models reach on the data of two grokking experiments: molecules of QM9, and film reviews.

    python benchmarks/linear.py

Least squares on how many atoms of each element a molecule has, and how many bonds of each kind; logistic regression on
which of the 1,000 known words a review has. The sets are those of ``grokfast-qm9`` and ``grokfast-imdb``, seed by seed.
A net that does worse than these has not found what a count finds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
from _harness import RESULTS, make_parser, spread
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from surgecollapse.lab.config import make_config
from surgecollapse.lab.nets.gnn import ATOM, BONDS
from surgecollapse.lab.training.loading import load_data


def counts(x: Tensor, *, bonds: bool) -> Tensor:
    """Numbers of atoms by element, of bonds by kind (twice each), and 1; float64 (molecules, …)."""
    found = [x[..., :5].sum(1)]
    if bonds:
        found.append(x[..., ATOM:].reshape(*x.shape[:2], BONDS, x.shape[1]).sum((1, 3)))
    return torch.cat([*found, torch.ones(len(x), 1)], 1).double()


def molecules(seeds: int) -> Iterator[str]:
    """Squared errors on the validation molecules."""
    for bonds in (False, True):
        errors = []
        for seed in range(seeds):
            data = load_data(make_config(task="grokfast-qm9", seed=seed))
            x, y = counts(data.x_train, bonds=bonds), data.y_train.double()[:, None]
            weights = torch.linalg.lstsq(x, y, driver="gelsd").solution
            answers = (counts(data.x_validation, bonds=bonds) @ weights).squeeze(1)
            errors.append((answers - data.y_validation).square().mean().item())
        yield row(f"least squares on counts of atoms{' and bonds' if bonds else ''}: squared error, bohr⁶", errors)


def reviews(seeds: int) -> Iterator[str]:
    """Accuracies on the validation reviews."""
    for content in (True, False):
        scores = []
        for seed in range(seeds):
            data = load_data(make_config(task="grokfast-imdb", drop_stop_words=content, seed=seed))
            bags = [
                torch.zeros(len(x), data.vocabulary).scatter_(1, x, 1.0)[:, 2:]
                for x in (data.x_train, data.x_validation)
            ]
            model = LogisticRegression(C=0.03, max_iter=2_000).fit(bags[0].numpy(), data.y_train.numpy())
            scores.append(float(model.score(bags[1].numpy(), data.y_validation.numpy())))
        yield row(f"logistic regression on words{', no stop words' if content else ''}: accuracy", scores)


def row(name: str, values: list[float]) -> str:
    """One line of the table."""
    return f"| {name} | {spread((statistics.median(values), min(values), max(values)), 3)} |"


def main() -> None:
    """Fit, write the table."""
    options = make_parser(__doc__, out=RESULTS / "grokking", seeds=10).parse_args()
    lines = ["# Linear models on the data of grokking experiments", "", "`python benchmarks/linear.py`", ""]
    lines += [f"| model, median (least–most) of {options.seeds} splits | validation |", "|---|---|"]
    lines += [*molecules(options.seeds), *reviews(options.seeds), ""]
    (options.out / "linear.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
