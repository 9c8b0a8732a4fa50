"""Training on tasks that change: the tasks, and remedies against the loss of plasticity as published."""
