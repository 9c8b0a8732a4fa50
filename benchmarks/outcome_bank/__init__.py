"""Small banks of runs that diverge, lose units or lose plasticity, or do not, with the monitors before it."""
