"""What a report says first, and its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from surgecollapse.report.page import PARTS
from surgecollapse.report.result import by_configuration, result, settings
from surgecollapse.report.rundata import RunData


def run(name, policy="gmp", seed=0, accuracy=0.9, *, task="digits", **config):
    """A run as it is collected, without its net."""
    sparse = policy != "none"
    summary = {"task": task, "policy": policy, "steps": 100, "seconds": 3.0 if sparse else 2.0, "accuracy": accuracy,
               "sparsity": 0.8 if sparse else 0.0, "bytes_sparse": 100 if sparse else 400, "bytes_dense": 400,
               "mean_density": 0.25}  # fmt: skip
    return RunData(name, Path(name), policy=policy, task=task, config={"policy": policy, "seed": seed, **config},
                   summary=summary, environment={"torch": "2"}, test_samples=1000)  # fmt: skip


def test_the_result_stands_first_and_the_settings_last():
    assert next(iter(PARTS)) == "result"
    assert list(PARTS)[-1] == "settings"


def test_seeds_stand_together_and_are_compared_in_pairs():
    plain = [run(f"plain-{seed}", "none", seed, 0.95) for seed in range(3)]
    ours = [run(f"gmp-{seed}", "gmp", seed, accuracy) for seed, accuracy in enumerate((0.9, 0.91, 0.89))]
    about_plain, about_ours = result([*plain, *ours]).paragraphs
    assert about_plain.startswith("`plain-0 and 2 more seeds`")
    # Differences −5, −4 and −6 points: mean −5, s = 1, t(2) = 4.303, half = 4.303/√3 = 2.48.
    assert "5.00 points lower than that of plain-0 (95% interval −7.48 to −2.52, 3 seeds)" in about_ours
    assert "The net is 4.0 times smaller and took 1.5 times as long to train." in about_ours
    assert "Packed, the network takes 100 B of 400 B." in about_ours
    assert "Mean density during training: 0.250." in about_ours


def test_a_difference_within_noise_is_said_to_be_so():
    _, about = result([run("plain", "none", 0, 0.91), run("ours", "gmp", 0, 0.9)]).paragraphs
    assert "within noise of that of plain: −1.00 points" in about


def test_without_a_plain_run_the_first_is_the_reference():
    _, about = result([run("a", "gmp"), run("b", "rigl", accuracy=0.5)]).paragraphs
    assert "40.00 points lower than that of a" in about


def test_runs_without_a_common_seed_are_not_compared():
    _, about = result([run("plain", "none", 0), run("ours", "gmp", 1)]).paragraphs
    assert "has one of its seeds" in about


def test_groups_are_of_the_same_settings():
    runs = [run("a"), run("b", seed=1), run("c", lr=0.1)]
    assert [[one.name for one in group] for group in by_configuration(runs)] == [["a", "b"], ["c"]]


def test_settings_that_differ_stand_over_all_of_them():
    part = settings([run("a", lr=0.1), run("b", lr=0.2)])
    assert part.before.rows == [["lr", "0.1", "0.2"]]
    assert [table.label for table in part.tables] == ["All settings", "Environment"]
    assert part.tables[1].rows == [["torch", "2", "2"]]


def test_a_grokking_run_says_when_it_generalized_and_why_it_stopped():
    one = run("a", task="modular")
    times = {"outcome": "grokked", "t_fit": 100, "t_gen": 900}
    (said,) = result([replace(one, summary={**one.summary, "grokking": times, "reached_goal": True})]).paragraphs
    assert "It stopped because it reached its goal, in three evaluations in a row." in said
    assert "fitted the training set at step 100 and generalized at step 900" in said
