"""Elec2: both forms of its file, and what is said without one."""

from __future__ import annotations

import sys

import pytest
import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.elec2 import elec2
from surgecollapse.lab.data.idx import MissingDataError


@pytest.mark.parametrize(("name", "labels"), [("electricity.csv", ("UP", "DOWN")), ("elec.csv", ("1", "0"))])
def test_both_forms_of_the_file_are_read_in_order(tmp_path, name, labels):
    (tmp_path / name).write_text(f"a,b,class\n0.5,1,{labels[0]}\n0.25,0,{labels[1]}\n")
    x, y = elec2(tmp_path)
    assert torch.equal(x, torch.tensor([[0.5, 1.0], [0.25, 0.0]]))
    assert y.tolist() == [1, 0]


def test_the_copy_in_scikit_multiflow_is_found_without_importing_it(tmp_path, monkeypatch):
    folder = tmp_path / "skmultiflow" / "data" / "datasets"
    folder.mkdir(parents=True)
    (tmp_path / "skmultiflow" / "__init__.py").write_text("raise AssertionError")
    (folder / "elec.csv").write_text("a,class\n0.5,1\n")
    monkeypatch.delitem(sys.modules, "skmultiflow", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert elec2()[1].tolist() == [1]


def test_what_is_missing_or_of_another_form_is_said(tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match=r"no electricity\.csv or elec\.csv in .*scikit-multiflow==0\.4\.1"):
        elec2(tmp_path)
    (tmp_path / "elec.csv").write_text("a,class\n0.5,LEFT\n")
    with pytest.raises(ConfigError, match="last column of UP and DOWN"):
        elec2(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingDataError, match="the file is missing"):
        elec2()
