"""Search for settings with Optuna: of any training loop (:func:`surgecollapse.tune`), or of a run of the lab.

Optuna and the rest of the extra ``tune`` are imported by the modules, not by the package.
"""
