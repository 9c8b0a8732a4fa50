"""Recipes are nothing but arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse.recipes import RECIPES


def attached(**options):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surgecollapse.attach(model, optimizer, sparsity=0.8, total_steps=200, **options) as controller:
        return controller


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_policy_with_its_options(name):
    expected = surgecollapse.make_policy(RECIPES[name]["policy"], **RECIPES[name]["policy_options"])
    assert repr(attached(recipe=name).policy) == repr(expected)


def test_what_is_given_comes_before_the_recipe():
    assert type(attached(recipe="surge-collapse", policy="cycles").policy).__name__ == "ACDC"
    other = surgecollapse.EntropyCycles(floor=0.1)
    assert attached(recipe="surge-collapse", policy=other).policy is other


def test_without_a_recipe_nothing_changes():
    assert repr(attached().policy) == repr(surgecollapse.EntropyCycles())


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match="unknown recipe 'surge': expected one of surge-collapse"):
        attached(recipe="surge")
