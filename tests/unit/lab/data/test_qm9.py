"""QM9: graphs by hand, both sources, the edge-conditioned net against a loop over its bonds, runs of numbers."""

from __future__ import annotations

import csv
import sys

import pytest
import torch
from grokking_bank.stacked import train_stacked
from torch import nn

from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.data.qm9 import atoms_and_bonds, packed, qm9
from surgecollapse.lab.nets.gnn import ATOM, EdgeConvolution, GraphNet
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore
from surgecollapse.report import write_report

Chem = pytest.importorskip("rdkit.Chem")
SMILES = [f"{'C' * n}{end}" for n in range(1, 7) for end in ("O", "N", "F", "C#N", "C=O", "c1cnoc1")]
SMALL = {"train_samples": 8, "widths": (8, 8, 8), "epochs": 20.0, "evaluate_every": 10}


def graph(smiles):
    return atoms_and_bonds(Chem.AddHs(Chem.MolFromSmiles(smiles)))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the name and the shape of the real one, which must not be imported."""
    folder = tmp_path / "site" / "qm9pack"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('never to be imported')")
    for part in (1, 2):
        with (folder / "data" / f"qm9_part{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["Index", "SMILES", "Polarizability_bohr3"])
            table.writerows([i, text, 10.0 * i] for i, text in enumerate(SMILES) if i // 18 == part - 1)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


@pytest.fixture
def download(tmp_path):
    """The standard download: structures, a table, and the list of those in doubt."""
    folder = tmp_path / "QM9" / "raw"
    folder.mkdir(parents=True)
    with Chem.SDWriter(str(folder / "gdb9.sdf")) as file:
        for text in SMILES[:12]:
            file.write(Chem.AddHs(Chem.MolFromSmiles(text)))
    lines = ["mol_id,A,alpha", *(f"gdb_{i + 1},0.0,{10.0 * i}" for i in range(12))]
    (folder / "gdb9.sdf.csv").write_text("\n".join(lines))
    (folder / "uncharacterized.txt").write_text("Index InChI\n  2  CN  C1N1\n  3  CF  C1F1\n3 compounds\n")
    return tmp_path


def test_atoms_and_bonds_by_hand():
    atoms, bonds = graph("CC#N")
    # Methyl carbon (sp3, three hydrogens), nitrile carbon and nitrogen (sp), three hydrogens.
    assert atoms[:3].tolist() == [
        [0, 1, 0, 0, 0, 6, 0, 0, 0, 1, 3],
        [0, 1, 0, 0, 0, 6, 0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0, 7, 0, 1, 0, 0, 0],
    ]
    assert atoms[3:].tolist() == [[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]] * 3
    single, triple = bonds[:, 0], bonds[:, 2]
    assert sorted(map(tuple, single.nonzero().tolist())) == sorted(
        [(0, 1), (1, 0), *[(0, h) for h in (3, 4, 5)], *[(h, 0) for h in (3, 4, 5)]]
    )
    assert triple.nonzero().tolist() == [[1, 2], [2, 1]]
    assert not bonds[:, [1, 3]].any()
    ring, bonds = graph("c1cnoc1")
    assert ring[:5, 6].tolist() == [1] * 5, "aromatic"
    assert bonds[:5, 3].sum() == 10


def test_other_elements_are_refused():
    with pytest.raises(ConfigError, match="H, C, N, O, F alone, got a molecule with Cl"):
        graph("CCl")


def test_the_convolution_is_the_sum_over_bonds_of_the_edge_networks_matrices():
    torch.manual_seed(0)
    layer = EdgeConvolution(ATOM, 3, hidden=5).double()
    nn.init.normal_(layer.bias)
    atoms, bonds = (part.double() for part in graph("CC(=O)N"))
    expected = layer.root(atoms) + layer.bias
    for i, kind, j in bonds.nonzero().tolist():
        matrix = layer.edge(torch.eye(4, dtype=torch.float64)[kind]).view(ATOM, 3)
        expected[i] = expected[i] + atoms[j] @ matrix
    torch.testing.assert_close(layer(atoms[None], bonds[None])[0], expected)


@pytest.mark.filterwarnings("ignore")
def test_the_net_is_that_of_pytorch_geometrics_convolutions():
    geometric = pytest.importorskip("torch_geometric.nn")
    torch.manual_seed(0)
    net = GraphNet((8, 6, 5)).double()
    graphs = [tuple(part.double() for part in graph(text)) for text in ("C", "CC(=O)N", "c1cnoc1", "C#N")]
    others = []
    for ours, inputs, outputs in ((net.first, ATOM, 8), (net.second, 8, 6)):
        nn.init.normal_(ours.bias)
        edge = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, inputs * outputs))
        other = geometric.NNConv(inputs, outputs, edge).double()
        edge.load_state_dict(ours.edge.state_dict())
        other.lin.load_state_dict(ours.root.state_dict())
        with torch.no_grad():
            other.bias.copy_(ours.bias)
        others.append(other)
    expected = []
    for atoms, bonds in graphs:
        i, kind, j = bonds.nonzero().T
        kinds = nn.functional.one_hot(kind, 4).double()
        h = others[0](atoms, torch.stack([j, i]), kinds).relu()
        h = others[1](h, torch.stack([j, i]), kinds).relu()
        expected.append(net.head(net.hidden(h.sum(0)).relu()))
    torch.testing.assert_close(net(packed(graphs).double()), torch.stack(expected))


def test_padding_and_the_order_of_atoms_change_nothing():
    torch.manual_seed(0)
    net = GraphNet((8, 8, 8)).double()
    for convolution in (net.first, net.second):
        nn.init.normal_(convolution.bias)  # would leak out of places that are empty
    atoms, bonds = graph("CC(=O)N")
    alone = net(packed([(atoms, bonds)], most=len(atoms)).double())
    beside = net(packed([graph("CCCCCC"), (atoms, bonds)], most=20).double())[1:]
    order = torch.randperm(len(atoms), generator=torch.Generator().manual_seed(1))
    moved = net(packed([(atoms[order], bonds[order][:, :, order])]).double())
    torch.testing.assert_close(beside, alone)
    torch.testing.assert_close(moved, alone)
    assert not torch.allclose(net(packed([graph("CC(=N)O")]).double()), alone), "bonds do not matter"


def test_the_package_is_read_without_being_imported_and_rows_are_drawn(package):
    data = qm9(0, samples=8)
    assert "qm9pack" not in sys.modules
    assert [len(y) for y in (data.y_train, data.y_validation, data.y_test)] == [8, 8, 8]
    drawn = torch.cat([data.y_train, data.y_validation, data.y_test]).tolist()
    assert len(set(drawn)) == 24, "a molecule was drawn twice"
    assert drawn != sorted(drawn)
    first = int(data.y_train[0] / 10)
    atoms, _ = graph(SMILES[first])
    assert data.x_train[0, : len(atoms), :ATOM].equal(atoms)
    assert not data.x_train[0, len(atoms) :].any()
    assert qm9(0, samples=8).x_train.equal(data.x_train)
    assert not qm9(1, samples=8).y_train.equal(data.y_train)
    assert (package / "data").is_dir()


def test_the_smallest_are_the_first_of_the_files(package):
    data = qm9(0, samples=5, first_molecules=True)
    learned = torch.cat([data.y_train, data.y_validation])
    assert sorted(learned.tolist()) == [10.0 * i for i in range(10)]
    assert data.y_test.tolist() == [10.0 * i for i in range(10, 15)]
    assert learned.tolist() != sorted(learned.tolist())
    with pytest.raises(ConfigError, match="qm9_first_molecules = true has no effect with task = 'digits'"):
        make_config(task="digits", qm9_first_molecules=True)


def test_the_standard_download_without_what_is_in_doubt(download):
    data = qm9(0, data_dir=download, samples=3)
    drawn = torch.cat([data.y_train, data.y_validation, data.y_test]).tolist()
    assert not {10.0, 20.0} & set(drawn)
    with pytest.raises(ConfigError, match="train_samples = 4: qm9 has 10 molecules here"):
        qm9(0, data_dir=download, samples=4)
    atoms, _ = graph(SMILES[int(data.y_train[0] / 10)])
    assert data.x_train[0, : len(atoms), :ATOM].equal(atoms)


def test_what_is_missing_is_named(tmp_path, monkeypatch, download):
    with pytest.raises(MissingDataError, match=r"no gdb9\.sdf with gdb9\.sdf\.csv.*qm9pack"):
        qm9(0, data_dir=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="qm9 needs train_samples"):
        qm9(0, samples=None)
    table = download / "QM9" / "raw" / "gdb9.sdf.csv"
    table.write_text("mol_id,alpha\ngdb_1,1.0\n")
    with pytest.raises(ConfigError, match="has 12 molecules"):
        qm9(0, data_dir=download, samples=1)
    table.write_text("mol_id,A\ngdb_1,1.0\n")
    with pytest.raises(ConfigError, match="has not the column alpha"):
        qm9(0, data_dir=download, samples=1)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(MissingDataError, match=r"surgecollapse\[molecules\]"):
        qm9(0, samples=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "cross_entropy"}, "labels of qm9 are numbers, so its loss is mse"),
        ({"label_noise": 0.1}, "label_noise = 0.1 has no effect with task = 'qm9'"),
        ({"forecast": "slope"}, "is for classification"),
        ({"dropout": 0.1}, "dropout = 0.1 has no effect with model = 'gnn'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make_config(task="qm9", **values)


def test_other_models_do_not_read_graphs(package):
    assert package.is_dir()
    for model in ("mlp", "autoregressive", "transformer"):
        config = make_config(task="qm9", model=model, train_samples=4)
        with pytest.raises(ConfigError, match="task 'qm9' gives graph"):
            build_model(config, load_data(config))


def test_the_experiment_has_the_papers_settings(package):
    config = make_config(task="grokfast-qm9")
    assert (config.model.widths, config.model.init_scale, config.run.batch_size, config.run.epochs) == (
        (32, 16, 32),
        3.0,
        32,
        50_000,
    )
    assert (
        config.transforms.grokfast_alpha,
        config.transforms.grokfast_lamb,
        config.optimizer.weight_decay,
        config.optimizer.lr,
    ) == (0.9, 1.0, 0.01, 1e-3)
    shorter = make_config(task="grokfast-qm9", steps=9)
    assert (shorter.run.steps, shorter.run.epochs) == (9, None)
    assert make_config(task="grokfast-qm9-baseline").optimizer.weight_decay == 0.0
    small = make_config(task="grokfast-qm9", train_samples=8)
    net = build_model(small, load_data(small))
    own = 4 * 32 + 32
    edges = own + 33 * 11 * 32 + own + 33 * 32 * 16
    assert sum(p.numel() for p in net.parameters()) == edges + 12 * 32 + 33 * 16 + 17 * 32 + 33
    assert package.is_dir()


def test_a_run_on_numbers_learns_is_reported_and_equals_its_place_in_a_stack(package, tmp_path):
    configs = [make_config(task="grokfast-qm9", **SMALL, precision="float64", seed=seed) for seed in (0, 1)]
    result = train(configs[0], tmp_path / "run")
    with RunStore(tmp_path / "run" / "run.db") as store:
        losses = store.measurements("loss/validation").values.tolist()
    assert losses[-1] < losses[0]
    assert result.summary["accuracy"] <= 1
    assert "the labels are not classes" in write_report([tmp_path / "run"], tmp_path / "report").read_text()
    together = train_stacked(configs)
    assert together[0].loss_validation == pytest.approx(losses, rel=1e-6)
    assert together[0].loss == pytest.approx(result.summary["loss"], rel=1e-6)
    assert package.is_dir()


def test_a_policy_prunes_the_net(package, tmp_path):
    config = make_config(task="qm9", **SMALL, policy="one_shot", sparsity=0.5)
    assert train(config, tmp_path / "run").summary["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert package.is_dir()
