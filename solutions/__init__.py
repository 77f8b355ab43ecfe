"""The kernels shipped with fib-plugin, as source: `<op_type>/<name>/solution.toml` beside its kernel file.

Nothing here is imported at run time; `fib pack` reads the tree below ROOT and writes Solution JSON into a dataset.
"""

from pathlib import Path

ROOT = Path(__file__).parent
