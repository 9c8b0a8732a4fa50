"""A whole run: configuration in, record and checkpoints out."""
