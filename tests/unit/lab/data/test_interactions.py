"""Interactions: the file of MovieLens in time order, and choices with the probabilities that are stated."""

from __future__ import annotations

import sys

import pytest
import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.data.interactions import chosen_in_turn, drifting_choices, movielens_100k

ROWS = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116\n196\t302\t5\t878887116\n"


@pytest.mark.parametrize("folder", [".", "ml-100k"])
def test_a_download_is_read_in_time_order(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "u.data").write_text(ROWS)
    found = movielens_100k(tmp_path)
    # Users 22, 186, 196 and items 242, 302, 377 are numbered in order; the two of one second keep theirs.
    assert found.users.tolist() == [0, 2, 2, 1]
    assert found.items.tolist() == [2, 1, 0, 1]
    assert (found.user_count, found.item_count) == (3, 3)


def test_the_copy_in_recbole_is_found_without_importing_it(tmp_path, monkeypatch):
    folder = tmp_path / "recbole" / "dataset_example" / "ml-100k"
    folder.mkdir(parents=True)
    (tmp_path / "recbole" / "__init__.py").write_text("raise AssertionError")
    (folder / "ml-100k.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + ROWS)
    monkeypatch.delitem(sys.modules, "recbole", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    found = movielens_100k()
    assert (found.users.tolist(), found.source) == ([0, 2, 2, 1], "the package recbole")


def test_what_is_missing_or_of_another_form_is_said(tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match=r"no u\.data in .*recbole==1\.2\.1"):
        movielens_100k(tmp_path)
    (tmp_path / "u.data").write_text("1::2::3::4\n")
    with pytest.raises(ConfigError, match="with tabs, on every line"):
        movielens_100k(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingDataError, match="movielens needs the ratings"):
        movielens_100k()


def test_choices_without_replacement_have_the_stated_probabilities():
    shares = torch.tensor([0.5, 0.3, 0.2])
    count = 40_000
    chosen = chosen_in_turn(shares.log().expand(count, -1), 2, torch.Generator().manual_seed(0))
    for item, share in enumerate(shares.tolist()):
        assert float((chosen[:, 0] == item).double().mean()) == pytest.approx(share, abs=6 * 0.5 / count**0.5)
    # After the first item, the second has 0.3/(0.3 + 0.2) of what is left.
    second = chosen[chosen[:, 0] == 0, 1]
    assert float((second == 1).double().mean()) == pytest.approx(0.6, abs=6 * 0.5 / len(second) ** 0.5)


def popularity(items, count):
    return torch.bincount(items, minlength=count).double()


@pytest.mark.parametrize("change", [True, False])
def test_tastes_change_in_the_middle_and_no_item_comes_twice(change):
    stream = drifting_choices(users=2000, items=60, each=4, seed=1, strength=0.0, change=change)
    pairs = stream.users * 60 + stream.items
    assert len(pairs.unique()) == len(pairs) == 2000 * 4
    for turn in stream.users.split(2000):  # each user once a round
        assert turn.sort().values.tolist() == list(range(2000))
    first, second = (popularity(half, 60) for half in stream.items.split(4000))
    related = float(torch.corrcoef(torch.stack([first, second]))[0, 1])
    assert abs(related) < 0.5 if change else related > 0.9


def test_impossible_numbers_of_choices_are_refused():
    for each in (3, 8):
        with pytest.raises(ConfigError, match="each must be even and at most items = 6"):
            drifting_choices(users=2, items=6, each=each, seed=0)
