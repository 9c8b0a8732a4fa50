"""Reinforcement learning in small: an environment, an agent, and how to judge a handful of runs."""
