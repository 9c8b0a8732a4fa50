"""What is happening: activations, gradients and the probe batch, reduced to a few numbers."""
