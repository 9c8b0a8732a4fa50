"""Phases of grokking, and detectors of it: host numbers only, never a tensor.

:mod:`~surgecollapse.forecast.times` when a run fits and generalizes · :mod:`~surgecollapse.forecast.phases` what it
goes through, in hindsight · :mod:`~surgecollapse.forecast.detectors` alarms while it trains.
"""
