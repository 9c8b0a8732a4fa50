"""Transforms of final gradients, in a declared order: Grokfast, OrthoGrad, a final clip."""
