"""``python -m fib_plugin``: the same as ``fib``."""

from fib_plugin.cli import main

main()
