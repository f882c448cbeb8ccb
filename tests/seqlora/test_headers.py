"""The header check: what the library reads passes with the same shapes, any cut, padding or changed claim does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from seqlora.errors import StoredFileError
from seqlora.files import read_tensors
from seqlora.headers import check_folder, tensor_shapes

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
shapes = st.lists(st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(DTYPES)), max_size=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensors") / "x.safetensors"


@given(shapes)
def test_what_the_library_writes_passes(path: Path, made: list[tuple[list[int], torch.dtype]]) -> None:
    tensors = {f"t{k}": torch.zeros(shape, dtype=dtype) for k, (shape, dtype) in enumerate(made)}
    save_file(tensors, path, metadata={"format": "pt"})
    assert tensor_shapes(path) == {name: tuple(value.shape) for name, value in tensors.items()}
    assert read_tensors(path, tensor_shapes(path)).keys() == tensors.keys()


@given(st.data())
def test_a_file_that_is_cut_or_padded_anywhere_is_refused(path: Path, data: st.DataObject) -> None:
    save_file({"a": torch.ones(3, 2), "b": torch.ones(5, dtype=torch.float16)}, path)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    for content in (whole[:cut], whole + bytes(cut + 1)):
        path.write_bytes(content)
        with pytest.raises(StoredFileError, match=r"x\.safetensors is not a whole safetensors file"):
            tensor_shapes(path)


@given(st.integers(0, 40), st.integers(0, 40), st.lists(st.integers(-1, 5), max_size=3))
def test_only_the_true_claim_passes(path: Path, start: int, stop: int, shape: list[int]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    true = min(shape, default=0) >= 0 and torch.Size(shape).numel() == 6 and (start, stop) == (0, 24)
    if true:
        assert tensor_shapes(path) == {"a": tuple(shape)}
    else:
        with pytest.raises(StoredFileError):
            tensor_shapes(path)


def test_a_folder_is_checked_to_its_depth(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    check_folder(tmp_path)
    (tmp_path / "unet" / "b.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(StoredFileError, match=r"b\.safetensors"):
        check_folder(tmp_path)
