"""Offline, on what runs recorded: spectra of trajectories."""
