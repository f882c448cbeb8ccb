"""An ONNX file is read as data before a runtime may build anything from it: size, graph, shapes, no outside files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from seqlora.errors import StoredFileError

MAX_BYTES = 600 << 20  # the largest published ArcFace encoders take 260 MB; protobuf itself ends at 2 GB


def check_image_encoder(path: str | Path) -> None:
    """Refuse a file that is no image encoder: one input (n, 3, H, W) float32, one output (n, d).

    Raises:
        StoredFileError: missing, too large, not ONNX, with weights in other files, or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise StoredFileError(f"{path} does not exist; give an ONNX file of an ArcFace encoder")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise StoredFileError(f"{path} has {size} bytes, more than the {MAX_BYTES} allowed; give an ArcFace encoder")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's errors share no base class with anything
        raise StoredFileError(f"{path} is no ONNX file ({_first_line(error)}); restore or delete it") from error
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise StoredFileError(f"{path} keeps weights in other files ({tensor.name}); save it as one file")
    weights = {tensor.name for tensor in graph.initializer}  # old files list them among the inputs
    inputs = [_shape(value) for value in graph.input if value.name not in weights]
    outputs = [_shape(value) for value in graph.output]
    if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][1] != 3 or min(inputs[0][2:]) < 1:
        raise StoredFileError(f"{path} takes inputs {inputs}, not images (n, 3, H, W); give an ArcFace file")
    if len(outputs) != 1 or len(outputs[0]) != 2:
        raise StoredFileError(f"{path} gives outputs {outputs}, not embeddings (n, d); give an ArcFace file")


def check_session(path: str | Path, session: Any) -> None:
    """Once more what the runtime made of the file: one input of rank 4, one output of rank 2.

    Raises:
        StoredFileError: it made something else of it.
    """
    ranks = [[len(value.shape) for value in values] for values in (session.get_inputs(), session.get_outputs())]
    if ranks != [[4], [2]]:
        raise StoredFileError(f"{path} has inputs and outputs of rank {ranks}, not [[4], [2]]; give an ArcFace file")


def _shape(value: Any) -> tuple[int, ...]:
    """Sizes of an input or output; -1 where they are left open."""
    sizes = value.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else -1 for size in sizes)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
