"""When phases end: by entropy, at random, at fixed times; and how deep early collapses go."""

from __future__ import annotations

import pytest

from actions import depth
from surgecollapse.events import Plan, Reading
from surgecollapse.policies import EntropyCycles
from surgecollapse.policies.phase_timing import PhaseTiming
from surgecollapse.policies.signals import Signals


def clock(timing: str) -> PhaseTiming:
    return PhaseTiming(shortest=0.02, nominal=0.05, longest=0.1, timing=timing)


def length(timing: str, *, since: int = 100, seed: int = 0, **heard: str) -> int:
    signals = Signals(**heard)
    return next(
        step - since
        for step in range(since, 2000)
        if clock(timing).ends("open", since, step, 1000, signals, seed=seed)[0]
    )


def test_only_entropy_timing_listens() -> None:
    assert (length("entropy"), length("fixed")) == (50, 50)
    assert (length("entropy", plateau="flat"), length("fixed", plateau="flat")) == (20, 50)
    assert (length("entropy", low="low"), length("fixed", low="low")) == (100, 50)
    assert length("random", plateau="flat") == length("random", low="low") == length("random")


def test_random_lengths_are_uniform_and_belong_to_seed_and_phase() -> None:
    lengths = [length("random", seed=seed, since=since) for seed in range(40) for since in (100, 150, 237)]
    assert min(lengths) >= 20
    assert max(lengths) <= 100
    # Uniform on [20, 100]: mean 60, standard deviation 23.1, so 8.4 is four standard errors of 120.
    assert sum(lengths) / len(lengths) == pytest.approx(60, abs=8.4)
    assert length("random", seed=3) == length("random", seed=3)
    assert len({length("random", seed=seed) for seed in range(10)}) > 5


def phases(policy: EntropyCycles, *, seed: int = 0) -> list[tuple[int, str]]:
    policy.start(Plan(sparsity=0.9, total_steps=1000, every=5, seed=seed))
    seen = []
    for step in range(1, 1001):
        if policy.due(step):
            decision = policy.decide(Reading(step=step, entropy=0.5, on_off=0.8))
            if decision.acts:
                seen.append((step, decision.phase))
    return seen


def test_fixed_timing_is_the_schedule_of_periodic_cycles() -> None:
    fixed = phases(EntropyCycles(timing="fixed", noise_std=0.0))
    assert fixed == phases(EntropyCycles(periodic=True))


def test_random_timing_differs_between_seeds_and_still_ends_frozen() -> None:
    one, other = (phases(EntropyCycles(timing="random"), seed=seed) for seed in (1, 2))
    assert one != other
    assert one[-1] == other[-1] == (850, "frozen")


def test_early_collapses_are_scaled_by_the_cubic() -> None:
    policy = EntropyCycles(full_depth_at=0.5)
    policy.start(Plan(sparsity=0.9, total_steps=1000, every=25))
    first = policy.decide(Reading(step=100, entropy=0.5, on_off=0.8))
    share = 1 - (1 - 0.2) ** 3
    assert depth(first) == pytest.approx((0.9 * share, 0.95 * share))
    policy.decide(Reading(step=200, entropy=0.5, on_off=0.8))
    assert depth(policy.decide(Reading(step=500, entropy=0.5, on_off=0.8))) == pytest.approx((0.9, 0.95))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timing": "often"}, "unknown timing 'often': expected one of entropy, random, fixed"),
        ({"full_depth_at": 1.0}, "full_depth_at must be in"),
        ({"shortest": 0.06}, "expected shortest <= phase <= longest"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("[", r"\[")):
        EntropyCycles(**options)
