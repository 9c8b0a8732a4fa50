"""Data sets: one file a task, found by the registry."""
