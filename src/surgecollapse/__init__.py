"""Surge-Collapse training with entropy dynamics for PyTorch."""
