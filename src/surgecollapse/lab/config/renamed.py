"""What version 0.1 called otherwise: used to read what it wrote, and to say what a name has become.

The names of policies and of their options are in :mod:`surgecollapse.policies.version_01`.
"""

from __future__ import annotations

RENAMED = {
    "hold": "lr_hold_steps",
    "smallest": "qm9_first_molecules",
    "content_words": "drop_stop_words",
    "standardise": "standardize",  # version 0.1
    "weigh_batches": "scale_partial_batches",
    "average_decay": "ema_decay",
    "trace_every": "gradient_trace_every",
    "moments": "optimizer_state",
    "initial": "regrow_init",
    "rho": "noise_energy_budget",
    "distribution": "allocation",
    "minimum_density": "min_density",
}
"""Keys of version 0.1 → their names since."""
