"""Entropies of the activations, site by site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from surgecollapse.functional import on_off_entropy, sign_covariance_entropy, unit_energy_entropy

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series


class Entropies:
    """Activation, unit-energy and on/off entropy of each site on the probe batch.

    ``entropy/activation`` (Rényi-2 of the sign covariance, over ln d), ``entropy/unit_energy`` (Shannon, over ln d) and
    ``entropy/on_off`` (bits), all in [0, 1]: see :data:`surgecollapse.functional.ENTROPY`. The spectral one comes from
    :class:`~surgecollapse.observe.monitors.representation.Representation`, the predictive one from
    :class:`~surgecollapse.observe.monitors.predictions.Predictions`.
    """

    name = "entropy"
    needs = ("activations",)

    def measure(self, scene: MonitorContext) -> Mapping[str, Series]:
        """Three entropies a site."""
        forms = {"activation": sign_covariance_entropy, "unit_energy": unit_energy_entropy, "on_off": on_off_entropy}
        return {
            f"entropy/{name}": {site: form(x) for site, x in scene.activations.items()} for name, form in forms.items()
        }
