"""The nets of the published experiments, small enough to read, and the building of one from a configuration.

Activations are modules, so that readings find them. The output layer is the last linear layer, so that it is left
unpruned by default. Token and position tables are embeddings for the same reason.
"""
