"""Writes the identity encoder as ONNX: weights in float16 (cast to float32 on loading), normalisation folded in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bench.world.portraits import SIZE
from seqlora.files import atomic_write


def fold(norm: Any) -> tuple[Tensor, Tensor]:
    """Batch normalisation as y = gain x + offset: gain = g / sd, offset = b - mean g / sd."""
    gain = (norm.running_var + norm.eps).rsqrt()
    gain = gain if norm.weight is None else gain * norm.weight
    return gain, (0.0 if norm.bias is None else norm.bias) - norm.running_mean * gain


class Graph:
    """Nodes and weights of a network under construction; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def constant(self, name: str, value: Tensor) -> str:
        """A weight, stored in half precision."""
        self.weights.append(numpy_helper.from_array(value.detach().cpu().half().numpy(), f"{name}.half"))
        return self.node("Cast", [f"{name}.half"], name, to=TensorProto.FLOAT)

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Any operator with one output."""
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def convolution(self, name: str, x: str, conv: Any, norm: Any) -> str:
        """norm(conv(x)) as one convolution with bias."""
        gain, offset = fold(norm)
        kernel = self.constant(f"{name}.weight", conv.weight * gain[:, None, None, None])
        bias = self.constant(f"{name}.bias", offset)
        side, pad = conv.kernel_size[0], conv.padding[0]
        return self.node(
            "Conv", [x, kernel, bias], name, kernel_shape=[side, side], pads=[pad] * 4, strides=list(conv.stride)
        )

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.node("Relu", [x], f"{x}.relu")

    def trunk(self, layers: list[Any], x: str) -> str:
        """The convolutional trunk of `nets.trunk`."""
        for number, layer in enumerate(layers):
            name = f"layer{number}"
            if isinstance(layer, nn.Conv2d):
                x = self.relu(self.convolution(name, x, layer, layers[number + 1]))
            elif hasattr(layer, "body"):
                y = self.relu(self.convolution(f"{name}.a", x, layer.body[0], layer.body[1]))
                y = self.convolution(f"{name}.b", y, layer.body[3], layer.body[4])
                x = self.relu(self.node("Add", [x, y], f"{name}.sum"))
        return x


@torch.no_grad()
def export_onnx(encoder: Any, path: Path) -> None:
    """Write an `IdentityEncoder` in the form that insightface's `ArcFaceONNX` reads.

    Args:
        encoder: in float32, with its final statistics.
        path: file to write, atomically.
    """
    graph = Graph()
    x = graph.trunk(list(encoder.trunk), "pixels")
    gain, offset = fold(encoder.norm)
    matrix = graph.constant("head.weight", encoder.head.weight * gain[:, None])
    flat = graph.node("Flatten", [x], "flat", axis=1)
    graph.node("Gemm", [flat, matrix, graph.constant("head.bias", offset)], "embedding", transB=1)
    width = encoder.head.weight.shape[0]
    body = helper.make_graph(
        graph.nodes,
        "identity",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", width])],
        graph.weights,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
