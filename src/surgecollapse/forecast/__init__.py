"""Phases of grokking: host numbers only, never a tensor.

:mod:`~surgecollapse.forecast.times` when a run fits and generalises · :mod:`~surgecollapse.forecast.phases` what it
goes through, in hindsight.
"""
