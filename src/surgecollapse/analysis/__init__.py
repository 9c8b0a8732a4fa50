"""Offline, on what runs recorded: spectra of trajectories, progress measures of modular addition."""
