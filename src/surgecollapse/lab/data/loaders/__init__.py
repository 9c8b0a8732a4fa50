"""Samples from files, read by number while a run trains: one file for each format."""
