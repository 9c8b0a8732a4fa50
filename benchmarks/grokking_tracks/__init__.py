"""The grokking records: one training loop without a run store, and the page."""
