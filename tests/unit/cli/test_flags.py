"""The flags of a run, and its help."""

from __future__ import annotations

import re

import pytest

from surgecollapse.cli import main
from surgecollapse.cli.flags import Flags
from surgecollapse.lab.config.keys import KEYS


def test_help_of_run_names_every_key_with_its_description(capsys):
    main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, (_, field) in KEYS.items():
        if name != "task":
            assert f"--{name.replace('_', '-')} " in text, name
            assert str(field.description).split(".")[0][:40] in text, name


def test_flags_are_exactly_the_configuration_keys():
    assert set(Flags.model_fields) == set(KEYS) - {"task"}


@pytest.mark.parametrize("command", ["run", "tune", "compare", "fork", "plan", "export", "analyze", "watch", "send"])
def test_help_names_each_flag_once(command, capsys):
    main([command, "--help"])
    flags = re.findall(r"^│ (?:\*  |   )?(--[a-z.-]+)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(set(flags)) == sorted(flags)
