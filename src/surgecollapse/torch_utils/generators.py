"""Random draws whose number must not show in what is drawn later."""

from __future__ import annotations

import torch

_SEEDS = 2**63 - 1


def branch(generator: torch.Generator) -> torch.Generator:
    """Make a generator of its own, seeded by one draw from another, which moves on by that draw alone.

    Processes with batches of different sizes draw different amounts. What they share stays alike on all of them.

    >>> one, other = (torch.Generator().manual_seed(0) for _ in range(2))
    >>> few, many = (torch.rand(n, generator=branch(g)) for n, g in ((2, one), (7, other)))
    >>> torch.equal(one.get_state(), other.get_state()), torch.equal(few, many[:2])
    (True, True)
    """
    draw = torch.randint(_SEEDS, (), generator=generator, device=generator.device)
    return torch.Generator(generator.device).manual_seed(int(draw))


def next_branch(generator: torch.Generator) -> torch.Generator:
    """Make the generator that :func:`branch` will make next, without moving the other one on.

    >>> one = torch.Generator().manual_seed(0)
    >>> early = torch.rand(2, generator=next_branch(one))
    >>> torch.equal(early, torch.rand(2, generator=branch(one)))
    True
    """
    return branch(generator.clone_state())
