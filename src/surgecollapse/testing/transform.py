"""What every gradient transform must do."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from torch import Tensor

from surgecollapse.gradients.chain import TransformChain
from surgecollapse.protocols import GradientTransform

Make = Callable[[], GradientTransform]
"""Makes a new transform."""
_STEPS = 7


def check_transform(make: Make) -> None:
    """Check a gradient transform: in place, weights untouched, no global random draws, bitwise resume.

    Args:
        make: makes a new transform; a class without required arguments will do.

    Raises:
        AssertionError: for the first claim that does not hold.

    >>> from surgecollapse import Grokfast
    >>> check_transform(Grokfast)
    """
    for check in TRANSFORM_CHECKS:
        check(make)


def keeps_the_protocol(make: Make) -> None:
    """It has a stage of the declared order, and can be called, saved and loaded."""
    try:
        TransformChain([make()])
    except (TypeError, ValueError) as error:
        raise AssertionError(str(error)) from error


def writes_gradients_in_place(make: Make) -> None:
    """It keeps shape, dtype and storage of the gradients, and leaves them finite."""
    transform, params = make(), _params()
    for step in range(_STEPS):
        grads = _grads(step)
        shown = [(g.data_ptr(), g.shape, g.dtype) for g in grads]
        transform(params, grads)
        assert [(g.data_ptr(), g.shape, g.dtype) for g in grads] == shown, "it replaces gradients"
        assert all(bool(torch.isfinite(g).all()) for g in grads), f"gradients of step {step + 1} are not finite"


def leaves_everything_else(make: Make) -> None:
    """Weights and the global generator stay as they are."""
    transform, params = make(), _params()
    before, state = [p.clone() for p in params], torch.get_rng_state()
    for step in range(_STEPS):
        transform(params, _grads(step))
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True)), "it writes to the weights"
    assert torch.equal(torch.get_rng_state(), state), "it draws from torch's global generator"


def resumes_exactly(make: Make) -> None:
    """A state that was saved and loaded (``weights_only``) gives the same further gradients, bit for bit."""
    through, params = make(), _params()
    for step in range(_STEPS // 2):
        through(params, _grads(step))
    file = io.BytesIO()
    torch.save(through.state_dict(params), file)
    file.seek(0)
    resumed = make()
    resumed.load_state_dict(torch.load(file, weights_only=True), params)
    for step in range(_STEPS // 2, _STEPS):
        wanted, found = _grads(step), _grads(step)
        through(params, wanted)
        resumed(params, found)
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True)), f"step {step + 1} differs"


def parameters_may_be_missing(make: Make) -> None:
    """A step in which some parameters have no gradient is taken."""
    transform, params = make(), _params()
    transform(params, _grads(0))
    transform(params[1:], _grads(1)[1:])
    transform(params, _grads(2))


TRANSFORM_CHECKS: tuple[Callable[[Make], None], ...] = (
    keeps_the_protocol,
    writes_gradients_in_place,
    leaves_everything_else,
    resumes_exactly,
    parameters_may_be_missing,
)
"""The claims, each a function of what makes the transform."""


def _params() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((4, 3), (4,), (2, 3, 2))]


def _grads(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(p.shape, generator=generator) for p in _params()]
