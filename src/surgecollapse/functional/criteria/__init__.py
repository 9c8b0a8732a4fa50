"""Saliency: how much a weight matters. The lowest are pruned; one file for each criterion."""
