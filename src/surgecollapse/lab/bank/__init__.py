"""A bank of small runs, some of which grok: many nets of one task trained as one batched model.

:mod:`~surgecollapse.lab.bank.members` one run's settings and its data · :mod:`~surgecollapse.lab.bank.stack` the nets
and their optimizer · :mod:`~surgecollapse.lab.bank.readings` what is measured of each ·
:mod:`~surgecollapse.lab.bank.plan` which runs the bank has · :mod:`~surgecollapse.lab.bank.store` the files ·
:mod:`~surgecollapse.lab.bank.learning` weights of detectors.
"""
