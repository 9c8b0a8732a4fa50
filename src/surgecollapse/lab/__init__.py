"""Data, models, runs and reports: what the command line is made of. Importing it imports no torch."""
