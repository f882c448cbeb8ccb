"""Recording from local folders: tiny transformers and diffusers models written here, and the packaged MiniLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqlora.errors import BadInputError, SeqLoRAError, StoredFileError
from theory.layers import folders, hf, load, minilm

WORDS = [f"word{index}" for index in range(60)]
TEXTS = {
    concept: [" ".join(WORDS[(start + step * shift) % 60] for step in range(20)) for start in range(6)]
    for shift, concept in enumerate(("first", "second"), start=1)
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-block BERT with a word-level tokenizer."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    tokenizer().save_pretrained(folder)
    config = BertConfig(
        vocab_size=70, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline of a few thousand weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("pipeline")
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=70, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=32, eos_token_id=2, bos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer(), scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_max_length=24,
    )  # fmt: skip


def record(folder: Path, **options: Any) -> list[Any]:
    return hf.record(folder, "smoke", np.random.default_rng(0), texts=TEXTS, **options)


def test_the_recorded_columns_are_what_the_layer_saw(bert: Path) -> None:
    name = "encoder.layer.1.intermediate.dense"
    (layer,) = record(bert, pattern=name)
    model = folders.open_folder(bert, np.random.default_rng(0))
    tokens = model.tokenize(TEXTS["first"], hf.WINDOW)
    with torch.inference_mode():
        states = model.module(input_ids=tokens.ids, output_hidden_states=True)
        attended = model.module.encoder.layer[1].attention(states.hidden_states[1])[0]
    expected = attended[:, 1 : 1 + hf.WINDOW].reshape(-1, 12).double().numpy().T
    assert layer.window == hf.WINDOW
    assert layer.activations["first"] == pytest.approx(expected, abs=1e-5)
    weight = model.module.get_submodule(name).weight.double().numpy()
    assert np.array_equal(layer.weight, weight)


def test_special_tokens_are_left_out_and_windows_whole(bert: Path) -> None:
    model = folders.open_folder(bert, np.random.default_rng(0))
    tokens = model.tokenize([*TEXTS["first"], "word1 word2"], hf.WINDOW)
    assert len(tokens.ids) == len(TEXTS["first"])  # the short one is dropped
    assert tokens.content.sum() == hf.WINDOW
    assert not set(tokens.ids[:, torch.from_numpy(tokens.content)].unique().tolist()) & {0, 1, 2}


def test_five_layers_are_spread_over_the_depth_by_default(bert: Path) -> None:
    names = [layer.name for layer in record(bert)]
    assert len(names) == hf.LAYERS
    assert {name.split(".")[2] for name in names} == {"0", "1"}


def test_hooks_are_gone_afterwards(bert: Path) -> None:
    model = folders.open_folder(bert, np.random.default_rng(0))
    name = "encoder.layer.0.attention.self.query"
    with hf.watched(model.module, [name]):
        assert model.module.get_submodule(name)._forward_pre_hooks
    assert not model.module.get_submodule(name)._forward_pre_hooks


def test_a_pipeline_is_read_through_the_same_door(pipeline: Path) -> None:
    layers = record(pipeline, pattern=r".*attn[12]\.to_k")
    widths = {(layer.name.rsplit(".", 2)[1], layer.width) for layer in layers}
    assert widths == {("attn1", 8), ("attn1", 16), ("attn2", 12)}  # pixels of two resolutions; text states
    for layer in layers:
        assert layer.window == hf.WINDOW
        assert layer.activations["first"].shape[1] == hf.WINDOW * len(TEXTS["first"])
        assert np.ptp(layer.activations["first"]) > 0


def test_default_layers_of_a_pipeline_have_whole_windows(pipeline: Path) -> None:
    layers = record(pipeline)
    assert layers
    assert all("time_emb" not in layer.name and layer.window == hf.WINDOW for layer in layers)


def test_an_unreadable_folder_is_one_line(bert: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = {"does not exist": tmp_path / "nowhere", "holds no model": tmp_path / "empty"}
    (tmp_path / "empty").mkdir()
    for name in ("truncated", "pickled"):
        shutil.copytree(bert, tmp_path / name)
    weights = tmp_path / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    cases |= {"truncated.*is not a whole safetensors file": tmp_path / "truncated"}
    cases |= {"cannot load the model in .*pickled": tmp_path / "pickled"}
    for message, folder in cases.items():
        with pytest.raises(SeqLoRAError, match=message) as caught:
            load(f"hf:{folder}", "smoke", rng)
        assert "\n" not in str(caught.value)


def test_a_pipeline_without_its_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline", "transformer": ["a", "b"]}))
    with pytest.raises(BadInputError, match="lacks scheduler, text_encoder, tokenizer, unet"):
        folders.open_folder(tmp_path, np.random.default_rng(0))


def test_a_pattern_that_matches_nothing_is_refused(bert: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(BadInputError, match=r"matches no Linear layer; the model has e\.g\. encoder"):
        load(f"hf:{bert}#encoder.layer.7.*", "smoke", rng)
    with pytest.raises(BadInputError, match="no regular expression"):
        load(f"hf:{bert}#(", "smoke", rng)


def test_a_layer_outside_the_forward_pass_and_short_texts_are_refused(bert: Path) -> None:
    rng = np.random.default_rng(0)
    module = folders.open_folder(bert, rng).module
    module.add_module("idle", torch.nn.Linear(3, 3))
    assert hf.choose_layers(module, "idle") == ["idle"]
    with pytest.raises(BadInputError, match="'first' has no passage of 16 tokens"):
        hf.record(bert, "smoke", rng, texts={"first": ["word1 word2"]})


def test_minilm_is_the_pinned_model(tmp_path: Path) -> None:
    folder = minilm.folder()
    for name in minilm.SHA256:
        shutil.copy(folder / name, tmp_path / name)
    assert minilm.verify(tmp_path, "reinstall") == tmp_path
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(StoredFileError, match=r"model\.safetensors has sha256 .* reinstall"):
        minilm.verify(tmp_path, "reinstall")
    (tmp_path / "config.json").unlink()
    with pytest.raises(StoredFileError, match=r"config\.json is missing"):
        minilm.verify(tmp_path, "reinstall")


def test_another_version_of_minilm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "VERSION", "9.9")
    with pytest.raises(BadInputError, match=r"9\.9 is pinned; pip install --force-reinstall"):
        minilm.folder()
    monkeypatch.setattr(minilm, "PACKAGE", "no-such-model")
    with pytest.raises(BadInputError, match="not installed"):
        minilm.folder()


@pytest.mark.slow
def test_minilm_layers_differ_by_topic() -> None:
    layers = load("minilm", "smoke", np.random.default_rng(0))
    assert tuple(layer.name for layer in layers) == minilm.LAYERS
    for layer in layers:
        assert len(layer.concepts) == 7
        assert all(X.shape == (layer.width, 48 * 16) for X in layer.activations.values())
        first, second = (layer.second_moment(concept) for concept in layer.concepts[:2])
        assert np.linalg.norm(first - second) > 0.05 * np.linalg.norm(first)
