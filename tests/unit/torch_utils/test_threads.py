"""Threads are set for a while and given back."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.torch_utils.threads import torch_threads


def test_threads_are_given_back_after_an_error():
    before, seen = torch.get_num_threads(), []

    def fail():
        with torch_threads(before + 1):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
