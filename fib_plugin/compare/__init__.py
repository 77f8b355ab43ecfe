"""A/B of the plugin on anything that can be run: off and on, in turns, with the spread that says what a ratio is worth.

``fib compare`` and the GPU scripts use it. Nothing here imports torch or an engine.
"""
