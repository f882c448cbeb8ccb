"""Layouts of photographs, and one line for each way in which they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

from bench.personalise.folders import ConceptSource, concept_sources
from bench.personalise.images import ConceptImages, load_folder
from bench.tasks.photos import check_lengths, image_size, read_prompts
from seqlora.errors import BadInputError


def fill(folder: Path, count: int = 3, size: tuple[int, int] = (12, 10)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (i, 0, 0)).save(folder / f"{i}.png")
    return folder


def write(path: Path, entries: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return path


def test_dreambooth_one_folder_a_concept(tmp_path: Path) -> None:
    for name in ("dog6", "can", "vase"):
        fill(tmp_path / name)
    fill(tmp_path / "can" / "references", count=1)
    (tmp_path / "prompts_and_classes.txt").write_text("Classes\nsubject_name,class\ndog6,dog\ncan,can\n\nPrompts\n")
    (tmp_path / "vase" / "class.txt").write_text("flower vase\n")
    sources = concept_sources(tmp_path)
    assert [(s.name, s.class_word) for s in sources] == [("can", "can"), ("dog6", "dog"), ("vase", "flower vase")]
    can, dog, _ = (source.load(8, 0.3) for source in sources)
    assert (len(can.training), len(can.references)) == (3, 1)  # its own references
    assert (len(dog.training), len(dog.references)) == (2, 1)
    assert dog.references[0, 0, 0, 0] == 2  # the last one


def test_custom_concept_101(tmp_path: Path) -> None:
    fill(tmp_path / "benchmark_dataset" / "pet_cat1")
    fill(tmp_path / "benchmark_dataset" / "plushie_bear")
    write(
        tmp_path / "customconcept101" / "dataset.json",
        [
            {
                "instance_prompt": "photo of a <new1> cat",
                "class_prompt": "cat",
                "instance_data_dir": "./benchmark_dataset/pet_cat1",
                "class_data_dir": "./real_reg/samples_cat",
            },
            {
                "instance_prompt": "a photo of sks teddy bear on a shelf",
                "class_prompt": "a photo of a teddy bear",
                "instance_data_dir": "benchmark_dataset/plushie_bear",
            },
        ],
    )
    cat, bear = concept_sources(tmp_path / "customconcept101")
    assert (cat.name, cat.class_word, cat.templates) == ("pet_cat1", "cat", ("photo of a {}",))
    assert (bear.class_word, bear.templates) == ("teddy bear", ("a photo of {} on a shelf",))
    assert cat.load(8, 0.3).templates == (("photo of a {}",),) * 2


def test_mix_of_show_with_captions_and_masks(tmp_path: Path) -> None:
    home = tmp_path / "datasets" / "data" / "potter"
    fill(home / "image")
    for i in range(3):
        (home / "caption").mkdir(exist_ok=True)
        (home / "caption" / f"{i}.txt").write_text(f"<TOK> in room {i}" if i else "<potter1> <potter2> smiles")
        (home / "mask").mkdir(exist_ok=True)
        Image.new("L", (12, 10), 255).save(home / "mask" / f"{i}.png")
    entry = {"instance_prompt": "photo of a <TOK>", "instance_data_dir": "datasets/data/potter/image"}
    entry |= {"caption_dir": "datasets/data/potter/caption", "mask_dir": "datasets/data/potter/mask"}
    lists = write(tmp_path / "datasets" / "data_cfgs" / "real" / "potter.json", [entry]).parent
    with pytest.raises(BadInputError, match="has no class_prompt"):
        concept_sources(lists)
    (source,) = concept_sources(lists, "man")
    assert (source.name, source.class_word) == ("potter", "man")
    potter = source.load(8, 0.3)
    assert potter.templates == (("{} smiles",), ("{} in room 1",))
    assert potter.masks is not None
    assert (potter.masks.shape, potter.masks.min()) == ((2, 8, 8), 1.0)


def test_content_is_that_of_the_photos_and_words_not_of_their_place(tmp_path: Path) -> None:
    def content(folder: Path, word: str = "cat") -> list[str]:
        return concept_sources(folder, word)[0].content()

    fill(tmp_path / "here" / "a")
    fill(tmp_path / "there" / "a")
    first = content(tmp_path / "here")
    assert content(tmp_path / "there") == first
    assert content(tmp_path / "there", "dog") != first
    (tmp_path / "there" / "a" / "1.txt").write_text("{} asleep")
    assert content(tmp_path / "there") != first
    (tmp_path / "there" / "a" / "1.txt").unlink()
    Image.new("RGB", (12, 10), "white").save(tmp_path / "there" / "a" / "2.png")
    assert content(tmp_path / "there") != first


def test_photos_are_upright_and_transparent_parts_white(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", count=0)
    wide = Image.new("RGB", (20, 10), "black")
    wide.paste((255, 255, 255), (0, 0, 10, 10))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    wide.save(folder / "0.png", exif=exif)
    Image.new("RGBA", (10, 10), (255, 0, 0, 0)).save(folder / "1.png")
    concept = load_folder(folder, 10, "cat", 1)
    assert concept.training[0, 0].mean() > 200 > 50 > concept.training[0, -1].mean()  # the left is on top now
    assert (concept.references == 255).all()


def broken(folder: Path, what: str) -> None:
    """Make one mistake in a sound folder of two concepts."""
    fill(folder / "cat", 3)
    fill(folder / "dog", 3)
    if what == "image":
        (folder / "dog" / "2.png").write_bytes(b"no image")
    elif what == "half an image":
        whole = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
        Image.fromarray(whole).save(folder / "dog" / "2.png")
        data = (folder / "dog" / "2.png").read_bytes()
        (folder / "dog" / "2.png").write_bytes(data[: len(data) // 2])
    elif what == "empty":
        (folder / "cow").mkdir()
        for path in (*(folder / "cat").iterdir(), *(folder / "dog").iterdir()):
            path.unlink()
    elif what == "one":
        for i in (1, 2):
            (folder / "dog" / f"{i}.png").unlink()
    elif what == "caption":
        (folder / "dog" / "0.txt").write_text("no place for it")
    elif what == "bytes":
        (folder / "dog" / "0.txt").write_bytes(b"\xff\xfe\xfa{}")
    elif what == "mask":
        fill(folder / "dog" / "mask", 1)
    elif what == "size":
        fill(folder / "dog" / "mask", 3, size=(9, 9))
    elif what == "name":
        fill(folder / "my dog!", 3)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("image", "2.png does not decode as an image"),
        ("half an image", "2.png does not decode as an image"),
        ("empty", "cat holds no images"),
        ("one", "dog holds 1 images; a concept needs two or more"),
        ("caption", r"lacks \{\} for the concept's token"),
        ("bytes", "is no readable text"),
        ("mask", "1.png is missing; give every training image a mask"),
        ("size", r"has \(9, 9\) pixels, its image \(12, 10\)"),
        ("name", "cannot be a file name"),
    ],
)
def test_each_mistake_in_a_folder_has_its_line(what: str, message: str, tmp_path: Path) -> None:
    broken(tmp_path, what)
    with pytest.raises(BadInputError, match=message) as refused:
        [source.load(8, 0.3) for source in concept_sources(tmp_path, "cat")]
    assert "\n" not in str(refused.value)


def test_a_class_word_must_come_from_somewhere(tmp_path: Path) -> None:
    fill(tmp_path / "cat")
    with pytest.raises(BadInputError, match="has no class word; write what kind of thing it is into"):
        concept_sources(tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": 1}, "is no concept list"),
        ([], "is no concept list"),
        ([{"lora_path": "a.pth", "concept_name": "<a1> <a2>"}], "has no instance_data_dir"),
        ([{"instance_data_dir": "nowhere", "class_prompt": "cat"}], "folder 'nowhere' is neither beside"),
        ([{"instance_data_dir": "cat", "class_prompt": "cat", "instance_prompt": "a photo"}], "names neither"),
        ([{"instance_data_dir": "cat", "class_prompt": "cat"}] * 2, "two concepts named 'cat'"),
    ],
)
def test_each_mistake_in_a_list_has_its_line(entries: object, message: str, tmp_path: Path) -> None:
    fill(tmp_path / "cat")
    with pytest.raises(BadInputError, match=message):
        concept_sources(write(tmp_path / "dataset.json", entries))
    (tmp_path / "dataset.json").write_text("[{")
    with pytest.raises(BadInputError, match="concept list"):
        concept_sources(tmp_path)


def test_places_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="neither a folder of photos nor a JSON list"):
        concept_sources(tmp_path / "nothing")
    with pytest.raises(BadInputError, match="is empty"):
        concept_sources(tmp_path)


def test_prompts_of_the_user_or_ours(tmp_path: Path) -> None:
    assert all(prompt.count("{}") == 1 for prompt in read_prompts(tmp_path))
    (tmp_path / "prompts.txt").write_text("{} on the moon\n\n{} in a hat\n")
    assert read_prompts(tmp_path) == ("{} on the moon", "{} in a hat")
    (tmp_path / "prompts.txt").write_bytes(b"\xff\xfe{}")
    with pytest.raises(BadInputError, match=r"prompts\.txt is no readable text"):
        read_prompts(tmp_path)
    (tmp_path / "prompts.txt").write_text("a cat\n")
    with pytest.raises(BadInputError, match="every line is a prompt with one"):
        read_prompts(tmp_path)


def test_sizes_and_captions_that_the_base_cannot_use(photo_base: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(photo_base, safety_checker=None)
    assert image_size(pipeline, 0) == 32
    assert image_size(pipeline, 64) == 64
    with pytest.raises(BadInputError, match="size=30 does not suit this base; give a multiple of 4"):
        image_size(pipeline, 30)
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    long = "{} " + "and a cat " * 12
    concept = ConceptImages("cat", "cat", pixels, ((long,),), pixels)
    with pytest.raises(BadInputError, match=r"has \d+ tokens, of which 32 are read"):
        check_lengths(pipeline, [concept], ["a photo of {}"])
    check_lengths(pipeline, [ConceptImages("cat", "cat", pixels, (("{}",),), pixels)], ["a photo of {}"])


def test_a_source_knows_every_file_that_it_is_made_of(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a")
    fill(folder / "mask")
    (folder / "0.txt").write_text("{}")
    (folder / "notes.md").write_text("not part of it")
    names = {path.relative_to(folder).as_posix() for path in ConceptSource("a", "cat", folder).files()}
    assert names == {"0.png", "1.png", "2.png", "0.txt", "mask/0.png", "mask/1.png", "mask/2.png"}
