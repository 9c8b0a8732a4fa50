"""The tree of the package: few modules at the root, and names that the standard library does not have."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import surgecollapse

ROOT = Path(surgecollapse.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
PROJECT = Path(__file__).parents[2]


def test_at_most_nine_modules_stand_at_the_root():
    assert len(list(ROOT.glob("*.py"))) <= 9


def test_no_module_or_package_has_a_name_of_the_standard_library():
    packages = [path.parent for path in MODULES if path.name == "__init__.py"]
    assert not [path for path in (*MODULES, *packages) if path.stem in sys.stdlib_module_names]


def test_the_page_on_the_architecture_names_every_package_and_root_module():
    page = (PROJECT / "docs" / "concepts" / "architecture.md").read_text(encoding="utf-8")
    packages = [f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")]
    modules = [path.name for path in ROOT.glob("*.py") if path.name != "__main__.py"]
    assert not [name for name in (*packages, *modules) if name not in page]


@pytest.mark.parametrize("word", ["locals", "vars"])
def test_no_function_hands_on_its_own_names_as_a_dictionary(word):
    """Options are typed: a misspelled one fails where it is written."""
    calls = [
        (path.name, node.lineno)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == word and not node.args
    ]
    assert not calls


def test_unit_tests_lie_as_the_source_does():
    tests, source = Path(__file__).parents[1] / "unit", Path(surgecollapse.__file__).parent
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")} - {Path()}
    assert {folder.as_posix() for folder in folders if not (source / folder).is_dir()} == {"benchmarks"}
    rooms = {path.parent.name for path in source.glob("*/__init__.py")}
    # Thin layers over other packages, which tests/integration runs with those packages.
    assert rooms - {folder.parts[0] for folder in folders} == {"integrations", "trackers"}
