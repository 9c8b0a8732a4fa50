"""A bank of small runs, some of which grok: many nets of one task trained as one batched model.

:mod:`~grokking_bank.members` one run's settings and its data · :mod:`~grokking_bank.stack` the nets
and their optimizer · :mod:`~grokking_bank.readings` what is measured of each ·
:mod:`~grokking_bank.plan` which runs the bank has · :mod:`~grokking_bank.store` the files ·
:mod:`~grokking_bank.tracks` what a detector may look at · :mod:`~grokking_bank.learning` weights of detectors.
"""
