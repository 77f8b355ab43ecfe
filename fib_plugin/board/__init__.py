"""The board: what was measured and what is running, summed up for people and for scripts."""
