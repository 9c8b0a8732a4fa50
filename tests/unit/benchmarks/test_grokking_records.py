"""The page of grokking records: intervals and p in closed form, order, failures, and rows that are joined."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FAILED = math.inf


@pytest.fixture
def records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import grokking_records

    yield grokking_records
    parts = ("page", "rows", "runs")
    for name in ("grokking_records", "grokking_tracks", *(f"grokking_tracks.{part}" for part in parts)):
        sys.modules.pop(name, None)


@pytest.fixture
def page(records):
    return sys.modules["grokking_tracks.page"]


def rows(track, method, reached):
    config = {"steps": 300, "lr": 0.1, "seed": 0}
    return [
        {
            "track": track,
            "method": method,
            "seed": i,
            "reached": value,
            "seconds": 2.0 + i,
            "config": {**config, "seed": i},
        }
        for i, value in enumerate(reached)
    ]


@pytest.mark.parametrize("n", [6, 10, 17, 40])
def test_the_interval_of_the_median_holds_what_the_binomial_says(page, n):
    low, high = page.median_interval(range(1, n + 1))
    assert low + high == n + 1
    # P(X_(low) ≤ median ≤ X_(high)): between low and high−1 of n values lie below the median.
    inside = sum(math.comb(n, k) for k in range(low, high)) / 2**n
    wider = sum(math.comb(n, k) for k in range(low + 1, high - 1)) / 2**n
    assert inside >= 0.95 > wider


def test_five_seeds_are_too_few_for_an_interval(page):
    assert page.median_interval([1, 2, 3, 4, 5]) is None


def test_p_is_the_share_of_orders_that_are_as_extreme(page):
    ours, theirs = [1.0, 2.0, 4.0], [3.0, 5.0, 6.0, 7.0]
    everything = ours + theirs
    pairs = sum(a < b for a in ours for b in theirs)
    orders = [
        sum(a < b for a in some for b in [x for x in everything if x not in some])
        for some in itertools.combinations(everything, 3)
    ]
    exact = sum(count >= pairs for count in orders) / len(orders)
    assert page.p_value(ours, theirs) == pytest.approx(exact)


def test_failures_rank_after_every_step(page):
    assert page.p_value([10.0, 20.0, 30.0, 40.0], [FAILED] * 4) < 0.05
    assert page.p_value([FAILED] * 4, [10.0, 20.0, 30.0, 40.0]) > 0.95


def test_methods_stand_from_the_most_steps_to_the_fewest_with_failures_first(page):
    found = page.collected(
        rows("s5", "adamw", [200, None, None])
        + rows("s5", "muon", [150.0 + i for i in range(10)])
        + rows("s5", "one-setting", [100.0 + i for i in range(10)])
    )
    lines = list(page.table("s5", found))
    assert [line.split("|")[1].strip() for line in lines[3:]] == [
        page.METHOD_TITLES[name] for name in ("adamw", "muon", "one-setting")
    ]
    adamw, _, ours = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[3:]]
    assert adamw[1:6] == ["> 300", "–", "200–> 300", "3", "2"]
    assert adamw[-1] == "under 10 seeds; 2 of 3 failed"
    assert ours[1:6] == ["104", "101–108", "100–109", "10", "0"]
    assert ours[-1] == "–"


def test_failures_say_how_far_they_came(page):
    given = rows("quadratic", "muon", [None, None, 200])
    reached = [{**row, "best": best} for row, best in zip(given, (0.61, 0.84, 0.99), strict=True)]
    (series,) = [s for s in page.collected(reached) if s.track == "quadratic"]
    assert page.doubts(series, None) == ["under 10 seeds", "2 of 3 failed, best 84%"]
    far, near = (
        page.Series("s5", name, {0: FAILED}, None, {}, "", 300, best) for name, best in (("a", 0.9), ("b", 0.2))
    )
    lines = list(page.table("s5", [far, near]))[-2:]
    assert [line.split("|")[1].strip() for line in lines] == ["b", "a"]


def test_an_even_number_of_seeds_of_which_half_failed_has_no_finite_median(page):
    found = [s for s in page.collected(rows("s5", "adamw", [100, 100, None, None])) if s.track == "s5"]
    assert found[0].median == FAILED


def test_earlier_rows_of_the_same_settings_are_joined_without_the_seeds_it_was_chosen_on(page):
    row = rows("multiplication", "one-setting", [90])[0]
    (series,) = [
        s for s in page.collected([{**row, "seed": 500}]) if (s.track, s.method) == ("multiplication", "one-setting")
    ]
    assert sorted(series.reached) == [*range(10, 20), 500]


def test_the_one_setting_is_the_frozen_experiment_with_its_filter(records):
    from surgecollapse.lab.config import as_mapping, flat_values, make_config

    ours = flat_values(as_mapping(make_config(**records.settings("multiplication", "one-setting"))))
    filtered = {"grokfast": "ema", "grokfast_alpha": 0.9, "grokfast_lamb": 0.5}
    frozen = flat_values(as_mapping(make_config(task="grokfast-modular-record", **filtered)))
    different = {name for name in ours if ours[name] != frozen[name]}
    assert different <= {"monitors", "checkpoint_every", "stop_at_accuracy"}


def test_every_setting_is_a_configuration_and_only_the_clip_differs_by_track(records):
    from surgecollapse.lab.config import make_config

    for track in records.TRACKS:
        for method in records.METHODS:
            make_config(**records.settings(track, method))
    for track, methods in records.ON_PERCEPTRONS.items():
        for method in methods:
            make_config(**records.settings(track, method))
    own = [
        {k: v for k, v in records.settings(track, "one-setting").items() if k not in {*records.TRACKS[track], "steps"}}
        for track in records.TRACKS
    ]
    assert all(settings == own[0] for settings in own)


def test_a_small_run_is_the_run_of_the_lab(records, tmp_path):
    from grokking_tracks.runs import train

    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.run import train as train_in_the_lab
    from surgecollapse.record import RunStore

    small = {"modulus": 7, "widths": (8, 16), "batch_size": 8, "steps": 60, "max_row_norm": 2.0}
    config = make_config(**{**records.settings("multiplication", "one-setting"), **small}, seed=3)
    ours = train(config)
    train_in_the_lab(config, tmp_path / "run")
    with RunStore(tmp_path / "run" / "run.db") as store:
        theirs = store.measurements("accuracy/validation")
    lab = dict(zip(theirs.steps.tolist(), theirs.values.tolist(), strict=True))
    assert ours.steps == [40, 45, 50, 55, 60]
    assert ours.validation == [pytest.approx(lab[step]) for step in ours.steps]


def test_pairs_of_one_value_are_told_by_the_symmetry_that_training_shows(records, monkeypatch):
    import torch

    monkeypatch.delitem(sys.modules, "quadratic", raising=False)
    import quadratic

    x, y = torch.cartesian_prod(torch.arange(7), torch.arange(7)).unbind(1)
    value = (x * x + x * y + y * y) % 7
    for a, b in quadratic.orbit(x, y, 7):
        assert torch.equal((a * a + a * b + b * b) % 7, value)
    assert len(set(quadratic.orbit(3, 10, 97))) == 12
    # Of (1, 2): swapped, negated, turned to (−2, 3), and a pair of another value.
    train = torch.tensor([[2, 1]]), torch.tensor([[96, 95]]), torch.tensor([[95, 3]]), torch.tensor([[1, 1]])
    asked = torch.tensor([[1, 2]])
    assert [quadratic.groups(rows, asked, 97).item() for rows in train] == [0, 1, 2, 3]


def test_the_parts_that_need_a_gpu_are_commands_that_are_understood(records, monkeypatch):
    """Each gets as far as the GPU, which is not there, or is told to stop before."""
    for name in ("grokking_gpu", "grokking", "digits"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import digits
    import grokking
    import grokking_gpu

    assert set(grokking_gpu.SHARES) == set(grokking_gpu.PARTS)
    commands = grokking_gpu.commands(list(grokking_gpu.PARTS))
    taken = []
    monkeypatch.setattr(grokking, "gpu_name", lambda: "a GPU")
    monkeypatch.setattr(grokking, "run_all", lambda methods, options: (taken.append(methods), ({}, 0.0))[1])
    for name in ("lstm", "stablemax"):
        monkeypatch.setattr(sys, "argv", commands[name])
        with pytest.raises(SystemExit, match="no run has finished"):
            grokking.main()
    assert [len(methods) for methods in taken] == [2, 1]
    assert all(settings["device"] == "cuda" for methods in taken for settings in methods.values())
    devices = []
    monkeypatch.setattr(records, "run", lambda *given: devices.append(given[4]))
    monkeypatch.setattr(sys, "argv", commands["mixed"])
    records.main()
    monkeypatch.setattr(digits, "read_rows", lambda file: [])
    monkeypatch.setattr(digits, "append_row", lambda *given: None)
    monkeypatch.setattr(digits, "train", lambda *given: (devices.append(given[-1]), {"reached": 1, "seconds": 1.0})[1])
    monkeypatch.setattr(sys, "argv", commands["digits"])
    digits.main()
    assert devices == ["cuda"] * 7


def test_sums_are_right_in_all_digits_the_last_one_first_and_no_pair_is_in_both_sets(records, monkeypatch):
    import torch

    monkeypatch.delitem(sys.modules, "digits", raising=False)
    import digits

    train, validation = digits.pairs(0)
    assert (len(train), len(validation)) == (10_000, 2_000)
    for rows in (train, validation):
        powers = torch.tensor([100, 10, 1])
        a, b = (rows[:, :3] * powers).sum(1), (rows[:, 4:7] * powers).sum(1)
        assert torch.equal((rows[:, 8:] * torch.tensor([1, 10, 100, 1000])).sum(1), a + b)
        assert (rows[:, 3] == digits.PLUS).all()
        assert (rows[:, 7] == digits.EQUALS).all()
    seen = {tuple(row) for row in train[:, :7].tolist()}
    assert len(seen) == 10_000
    assert not seen & {tuple(row) for row in validation[:, :7].tolist()}


@pytest.mark.parametrize("method", ["one-setting", "adamw", "clip-to-grok", "egd"])
def test_a_small_net_learns_digits_and_the_answer_alone_is_in_the_loss(records, monkeypatch, method):
    monkeypatch.delitem(sys.modules, "digits", raising=False)
    import digits

    monkeypatch.setitem(digits.SIZES, "tiny", {"layers": 1, "width": 16, "hidden": 32, "heads": 2, "batch": 64})
    row = digits.train("tiny", method, 0, 50, "cpu")
    assert row["steps"] == 50
    assert row["reached"] is None
    assert 0 <= row["best"] < 0.5
    assert digits.train("tiny", method, 0, 50, "cpu") | {"seconds": 0} == row | {"seconds": 0}


def test_failures_that_had_fewer_steps_are_not_compared(page):
    def series(method, reached, limit):
        return page.Series("s5", method, dict(enumerate(reached)), None, {}, "", limit)

    slow = series("adamw", [500.0 + i for i in range(10)], 600)
    short, long = series("plain", [FAILED] * 10, 100), series("float64", [FAILED] * 10, 600)
    assert page.doubts(slow, short) == ["failures above had fewer steps"]
    assert page.doubts(slow, long) == []
    cells = list(page.table("s5", [slow, short]))[-1].split("|")
    assert cells[7].strip() == "–"


def test_a_row_is_compared_with_the_nearest_above_whose_failures_had_as_many_steps(page):
    baseline = page.Series("s5", "baseline", dict.fromkeys(range(10), FAILED), None, {}, "", 9_000)
    short = page.Series("s5", "spherical", dict.fromkeys(range(10), FAILED), None, {}, "", 100)
    slow = page.Series("s5", "adamw", {i: 500.0 + i for i in range(10)}, None, {}, "", 600)
    (*_, line) = page.table("s5", [slow, short, baseline])
    assert [cell.strip() for cell in line.split("|")][7] == "< 0.0001"
    (*_, alone) = page.table("s5", [slow, short])
    assert "failures above had fewer steps" in alone


def test_a_configuration_is_written_once_for_the_seeds_that_share_it(records, page, tmp_path):
    from grokking_tracks.rows import add_row

    file, kind = tmp_path / "rows.jsonl", ("track", "method")
    for row in rows("s5", "muon", [100, 105, None]) + rows("s5", "adamw", [200]):
        add_row(file, row, kind)
    written = records.read_rows(file)
    assert ["config" in row for row in written] == [True, False, False, True]
    muon, adamw = page.collected(written)[:2]
    assert muon.config == adamw.config == {"steps": 300, "lr": 0.1}
    assert muon.values == [100, 105, FAILED]
    (changed,) = rows("s5", "muon", [90])
    add_row(file, {**changed, "seed": 3, "config": {**changed["config"], "lr": 0.2}}, kind)
    assert records.read_rows(file)[-1]["config"]["lr"] == 0.2


def test_a_method_without_settings_on_a_track_is_refused(records, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grokking_records.py", "--track", "mnist", "--method", "spherical"])
    with pytest.raises(SystemExit):
        records.main()
    assert "spherical has no settings on mnist: expected clip-to-grok, egd" in capsys.readouterr().err


def test_grokfast_has_the_settings_of_the_papers_experiment(records):
    from surgecollapse.lab.config import as_mapping, flat_values, make_config

    ours = flat_values(as_mapping(make_config(**records.settings("multiplication", "ema"))))
    paper = flat_values(as_mapping(make_config(task="grokfast-modular")))
    different = {name for name in {*ours, *paper} if ours.get(name) != paper.get(name)}
    assert different <= {"monitors", "checkpoint_every", "stop_at_accuracy", "steps"}


def test_a_limit_of_ones_own_is_for_a_file_of_ones_own(records, monkeypatch, tmp_path, capsys):
    asked = ["grokking_records.py", "--track", "s5", "--first-seed", "29", "--seeds", "1", "--steps", "50"]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit):
        records.main()
    assert "another file" in capsys.readouterr().err
    small = {"task": "permutations", "degree": 3, "model": "decoder", "widths": (8, 16), "batch_size": 8}
    monkeypatch.setitem(records.TRACKS, "s5", small)
    monkeypatch.setattr(sys, "argv", [*asked, "--out", str(tmp_path / "rows.jsonl")])
    records.main()
    (row,) = records.read_rows(tmp_path / "rows.jsonl")
    assert (row["seed"], row["steps"], row["config"]["steps"]) == (29, 50, 50)


def test_a_row_of_one_seed_is_passed_over_where_p_could_not_be_below_5_percent(page):
    def series(method, reached):
        return page.Series("s5", method, dict(enumerate(reached)), None, {}, "", 2_000)

    many, one = series("adamw", [900.0 + i for i in range(5)]), series("egd", [800.0])
    few, ours = series("clip-to-grok", [700.0, 705.0, 710.0]), series("muon", [100.0 + i for i in range(5)])
    # One order of 6 for five seeds and one; 1 of 20 for three and three; 1 of 56 for three and five.
    assert not page.enough(ours, one)
    assert not page.enough(few, series("ema", [1.0, 2.0, 3.0]))
    assert page.enough(ours, few)
    *_, last = page.table("s5", [many, one, ours])
    assert last.split("|")[7].strip() == f"{1 / math.comb(10, 5):.4f}"
    *_, alone = page.table("s5", [one, ours])
    assert alone.split("|")[7].strip() == "–"
    assert alone.split("|")[-2].strip() == "under 10 seeds"


def test_the_goal_of_a_configuration_takes_the_place_of_95_percent(records):
    from grokking_tracks.runs import Run

    steps, seen = [10, 20, 30, 40, 50], [0.8, 0.86, 0.9, 0.87, 0.96]
    assert Run(steps, seen, 0.0, goal=0.85).reached == 20
    assert Run(steps, seen, 0.0).reached is None


def test_a_run_with_a_policy_goes_on_until_its_mask_is_final_and_is_the_run_of_the_lab(records, tmp_path):
    from grokking_tracks.runs import train

    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.run import train as train_in_the_lab
    from surgecollapse.record import RunStore

    small = {"modulus": 7, "widths": (8, 16), "batch_size": 8, "steps": 80, "stop_at_accuracy": 0.01}
    policy = {"policy": "cyclic_pruning", "sparsity": 0.5, "every": 2}
    settings = {**records.settings("multiplication", "one-setting"), **small, **policy}
    ours = train(make_config(**settings, seed=3))
    assert ours.steps[0] == 40
    assert ours.steps[-1] < 80
    assert ours.sparsity is not None
    assert ours.sparsity[-1] == pytest.approx(0.5, abs=0.01)  # of a few hundred weights
    train_in_the_lab(make_config(**{**settings, "stop_at_accuracy": None}, seed=3), tmp_path / "run")
    with RunStore(tmp_path / "run" / "run.db") as store:
        theirs = store.measurements("accuracy/validation")
    lab = dict(zip(theirs.steps.tolist(), theirs.values.tolist(), strict=True))
    assert ours.validation == [pytest.approx(lab[step]) for step in ours.steps]
    assert ours.row["sparsity"] == round(ours.sparsity[-1], 4)


def test_rows_of_digits_are_on_the_page_with_the_command_of_their_script(records, page, monkeypatch, tmp_path, capsys):
    import json

    own = rows("digits-small", "muon", [400, 425])
    (tmp_path / "digits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    monkeypatch.setattr(records, "DIGITS_ROWS", tmp_path / "digits.jsonl")
    (series,) = [s for s in page.collected(records.rows_of_page(tmp_path / "none")) if s.track == "digits-small"]
    assert (
        series.command == "python benchmarks/digits.py --size small --method muon --first-seed 0 --seeds 2 --steps 300"
    )
    assert "## addition of three digits, 0.4 million parameters" in page.page([series])
    monkeypatch.setattr(sys, "argv", ["grokking_records.py", "--rerun", series.id, "--out", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        records.main()
    assert "digits.py --size small" in capsys.readouterr().err


def test_sparse_rows_stand_below_their_dense_ones_with_a_two_sided_p(page):
    def row(track, method, asked, seed, reached):
        then = None if reached is None else 0.7
        return {
            "track": track, "method": method, "asked": asked, "seed": seed, "reached": reached, "last": 0.99,
            "config": {"steps": 300}, **({"sparsity_reached": then} if asked else {}),
        }  # fmt: skip

    dense = page.Series("s5", "adamw", {i: 100.0 + i for i in range(5)}, 1.0, {}, "", 1_000)
    sparse = [row("s5", "adamw", 0.5, i, 200 + i) for i in range(4)] + [row("s5", "adamw", 0.5, 4, None)]
    parity = [row("parity", "preset", asked, i, None if not asked else 90) for asked in (0.0, 0.9) for i in range(3)]
    lines = [line for line in page.sparse_section(sparse + parity, [dense]) if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [c[2] for c in cells] == ["dense", "90%", "dense, as above", "50%"]
    assert cells[0][4:6] == ["3", "> 300"]
    assert cells[1][4:9] == ["0", "90", "90–90", f"{page.two_sided([90] * 3, [FAILED] * 3):.4f}", "70%"]
    assert cells[3][3:6] == ["5", "1", "202"]
    # All five of one kind after all five of the other: 2 of 252 orders are as extreme.
    assert cells[3][7] == f"{2 / 252:.4f}"


def test_the_page_is_what_the_rows_say(records, page):
    written = page.page(page.collected(records.rows_of_page(records.ROWS)), records.read_rows(records.SPARSE_ROWS))
    assert records.PAGE.read_text(encoding="utf-8") == written
