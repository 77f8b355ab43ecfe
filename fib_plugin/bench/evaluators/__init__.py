"""Judges: compare what a solution returned with what is right. They run in the parent and never run a solution."""
