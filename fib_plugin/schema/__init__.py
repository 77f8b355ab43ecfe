"""The FlashInfer Trace schema: Definition, Workload, Solution, Trace and what they are made of.

Every part of the plugin that reads or writes a dataset goes through these models. Nothing here imports torch.
"""

from fib_plugin.schema.definition import AxisConst, AxisSpec, AxisVar, Definition, DType, TensorSpec
from fib_plugin.schema.errors import SchemaError
from fib_plugin.schema.record import Record, dump_line, dump_pretty, parse
from fib_plugin.schema.solution import ENGINE_AUTHOR, Binding, BuildSpec, Language, Solution, SourceFile, content_hash
from fib_plugin.schema.trace import Correctness, Environment, Evaluation, EvaluationStatus, Performance, Trace
from fib_plugin.schema.workload import InputSpec, RandomInput, SafetensorsInput, ScalarInput, Workload

__all__ = [
    "ENGINE_AUTHOR",
    "AxisConst",
    "AxisSpec",
    "AxisVar",
    "Binding",
    "BuildSpec",
    "Correctness",
    "DType",
    "Definition",
    "Environment",
    "Evaluation",
    "EvaluationStatus",
    "InputSpec",
    "Language",
    "Performance",
    "RandomInput",
    "Record",
    "SafetensorsInput",
    "ScalarInput",
    "SchemaError",
    "Solution",
    "SourceFile",
    "TensorSpec",
    "Trace",
    "Workload",
    "content_hash",
    "dump_line",
    "dump_pretty",
    "parse",
]
