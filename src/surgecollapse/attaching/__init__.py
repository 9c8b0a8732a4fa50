"""The one line that adds surge-collapse to a training loop, and the handles of its parts."""
