"""Warnings name the line of the user's program, and the command line shows them without one."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse.cli import app
from surgecollapse.errors import warn_user


def test_a_warning_from_deep_inside_names_the_line_of_the_caller():
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    with torch.no_grad():
        model[0].weight.mul_(1e-6)  # below every other weight, so that one threshold closes them all
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    readings = surgecollapse.Readings(probe=torch.randn(8, 4))
    with surgecollapse.attach(model, optimizer, 0.9, 100, policy="gmp", readings=readings) as controller:
        with pytest.warns(UserWarning, match="minimum density") as caught:
            controller.finalize()
        assert [warning.filename for warning in caught] == [__file__]


def test_a_warning_of_the_users_own_names_their_line():
    with pytest.warns(UserWarning, match="a message") as caught:
        warn_user("a message")
    assert caught[0].filename == __file__


def test_the_command_line_shows_a_warning_in_one_line(monkeypatch):
    shown = []
    monkeypatch.setattr(
        app, "app", lambda *_, **__: shown.append(warnings.formatwarning("too short", UserWarning, "a.py", 1))
    )
    before = warnings.formatwarning
    assert app.run_command_line(["run"]) == 0
    assert shown == ["surgecollapse: warning: too short\n"]
    assert warnings.formatwarning is before
