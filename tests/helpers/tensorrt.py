"""The rules of TensorRT's ONNX parser, as far as they are published: which operators it has, with which types.

In: an ONNX graph. Out: what it has against these rules. The rules are those of TensorRT 10.15 (onnx/onnx-tensorrt,
docs/operators.md), of the operators that exported networks have. Its own parser needs a library that PyPI does not
have.
"""

import math

import onnx
from onnx import TensorProto

FLOAT, UINT8, INT32, INT64, BOOL = (
    TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
)  # fmt: skip
REAL, NUMBERS, ANY = {FLOAT}, {FLOAT, INT32, INT64}, {FLOAT, INT32, INT64, BOOL}
OPSETS = range(9, 25)
INPUTS = {FLOAT, INT32, INT64, UINT8}
OPERATORS = {
    "Add": NUMBERS, "AveragePool": REAL, "BatchNormalization": REAL, "Cast": ANY | {UINT8}, "Clip": REAL,
    "Concat": ANY, "Constant": ANY, "Conv": REAL, "Div": NUMBERS, "Equal": NUMBERS, "Expand": ANY, "Flatten": ANY,
    "Floor": REAL, "Gather": ANY, "GatherND": ANY, "Gelu": NUMBERS, "Gemm": REAL, "GlobalAveragePool": REAL,
    "Greater": NUMBERS, "HardSigmoid": REAL, "HardSwish": REAL, "Identity": ANY, "IsNaN": NUMBERS,
    "LayerNormalization": REAL, "MatMul": REAL, "Max": NUMBERS, "MaxPool": REAL, "Min": NUMBERS, "Mod": NUMBERS,
    "Mul": NUMBERS, "Or": {BOOL}, "Pad": NUMBERS, "Range": NUMBERS, "ReduceL2": NUMBERS, "ReduceMean": NUMBERS,
    "Relu": NUMBERS, "Reshape": ANY, "Shape": ANY, "Sigmoid": REAL, "Slice": ANY, "Softmax": REAL, "Split": ANY,
    "Squeeze": ANY, "Sub": NUMBERS, "Transpose": ANY, "Unsqueeze": ANY, "Where": ANY,
}  # fmt: skip
RESULTS = {"Equal": BOOL, "Greater": BOOL, "IsNaN": BOOL, "Shape": INT64}  # the others' are of the types above
CONSTANT_AXES = {"ReduceL2", "ReduceMean", "Squeeze", "Unsqueeze"}  # their second input
FIRST_OUTPUT_ONLY = {"LayerNormalization", "MaxPool"}
UNDILATED = {"AveragePool", "MaxPool"}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The type of each tensor of a graph."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    typed = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in typed} | {
        value.name: value.data_type for value in graph.initializer
    }


def outside_of_tensorrt(model: onnx.ModelProto) -> list[str]:
    """What the parser does not list."""
    types = types_of(model)
    wrong = [f"opset {each.domain} {each.version}" for each in model.opset_import if not _has_opset(each)]
    wrong += [f"input {entry.name}" for entry in model.graph.input if types[entry.name] not in INPUTS]
    constant = {value.name for value in model.graph.initializer}
    for node in model.graph.node:
        allowed = OPERATORS.get(node.op_type, set())
        results = {RESULTS[node.op_type]} if node.op_type in RESULTS else allowed
        wrong += [f"{node.op_type} {name}" for name in node.input if name and types[name] not in allowed]
        wrong += [f"{node.op_type} {name}" for name in node.output if name and types[name] not in results]
        if node.op_type in CONSTANT_AXES and not {*node.input[1:]} <= constant:
            wrong.append(f"{node.op_type} with computed axes")
        if node.op_type in FIRST_OUTPUT_ONLY and len(node.output) > 1:
            wrong.append(f"{node.op_type} with {len(node.output)} outputs")
        if node.op_type in UNDILATED:
            wrong += [f"{node.op_type} with dilations" for each in node.attribute if _is_dilated(each)]
    return wrong


def _has_opset(opset: onnx.OperatorSetIdProto) -> bool:
    return opset.domain == "" and opset.version in OPSETS


def _is_dilated(attribute: onnx.AttributeProto) -> bool:
    return attribute.name == "dilations" and math.prod(attribute.ints) != 1
