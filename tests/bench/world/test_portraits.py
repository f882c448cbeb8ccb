"""Drawing, captions, splits and scenes of the embedded world."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.world import splits
from bench.world.attributes import HELD_OUT_HAIR, VALUES
from bench.world.captions import caption, describe, random_caption, vocabulary
from bench.world.identities import (
    ALL_HAIR,
    Context,
    Identity,
    is_novel,
    sample_base_identity,
    sample_context,
    sample_identity,
    visible_attributes,
)
from bench.world.portraits import MARGIN, compose, crop, draw, draw_figure
from bench.world.scenes import BOXES, Scene, cut, draw_scene, same_wall, short_scene_caption
from bench.world.tokens import LENGTH, SPARE_TOKENS, build_tokenizer, spare_token
from seqlora.errors import BadInputError

PERSON = Identity("bob", "ginger", "pale", "shaven", "glasses")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_listed_splits_are_disjoint_and_novel():
    sets = {name: set(splits.identities(name)) for name in splits.SIZES}
    assert {name: len(members) for name, members in sets.items()} == splits.SIZES
    assert splits.SIZES["evaluation"] == 101
    for a, b in itertools.combinations(sets.values(), 2):
        assert not a & b
    assert all(is_novel(person) for person in splits.listed())


def test_base_identities_meet_no_listed_one():
    rng = np.random.default_rng(0)
    drawn = {sample_base_identity(rng) for _ in range(2000)}
    assert not drawn & splits.listed()
    assert not any(person.hair in HELD_OUT_HAIR for person in drawn)


def test_people_of_one_split_differ_in_two_attributes():
    people = splits.identities("evaluation")
    assert min(a.differences(b) for a, b in itertools.combinations(people, 2)) >= 2


def test_splits_file_is_what_its_recipe_draws():
    again = splits.build_splits(np.random.default_rng(splits._ENTROPY))
    assert {name: tuple(members) for name, members in again.items()} == {
        name: splits.identities(name) for name in splits.SIZES
    }


def test_unknown_split_is_one_line():
    with pytest.raises(BadInputError, match="choose one of"):
        splits.identities("test")


def test_drawing_is_deterministic_and_sees_every_attribute():
    context = Context()
    reference = draw(PERSON, context)
    assert reference.shape == (64, 64, 3)
    assert np.array_equal(reference, draw(PERSON, context))
    changes = [
        (Identity("bun", "ginger", "pale", "shaven", "glasses"), context),
        (Identity("bob", "blue", "pale", "shaven", "glasses"), context),
        (Identity("bob", "ginger", "dark", "shaven", "glasses"), context),
        (Identity("bob", "ginger", "pale", "beard", "glasses"), context),
        (Identity("bob", "ginger", "pale", "shaven", "eyepatch"), context),
        (PERSON, Context(clothing="hoodie")),
        (PERSON, Context(clothing_color="green")),
        (PERSON, Context(mouth="shouting")),
        (PERSON, Context(eyes="heart")),
        (PERSON, Context(background="red")),
        (PERSON, Context(pattern="striped")),
        (PERSON, Context(scale=1.05)),
    ]
    for person, changed in changes:
        assert not np.array_equal(reference, draw(person, changed)), (person, changed)


def test_shift_moves_the_figure_and_not_the_wall():
    figure = draw_figure(PERSON, Context())
    moved = crop(figure, (2, 1))
    assert np.array_equal(moved[1:, 2:], crop(figure, (0, 0))[:-1, :-2])
    wall = np.full((64, 64, 3), 10.0, np.float32)
    empty = moved[..., 3] == 0
    assert (compose(moved, wall)[empty] == 10).all()
    assert crop(figure, (MARGIN, -MARGIN)).shape == (64, 64, 4)


def test_bad_attribute_is_one_line():
    with pytest.raises(BadInputError, match="hair_color 'mauve' is unknown"):
        Identity("bob", "mauve", "pale", "shaven", "glasses")
    with pytest.raises(BadInputError, match="background"):
        Context(background="mauve")
    with pytest.raises(BadInputError, match="is no identity"):
        Identity.from_key("bob/ginger")


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_identity_key_round_trip(seed):
    person = sample_identity(np.random.default_rng(seed), ALL_HAIR)
    assert Identity.from_key(person.key) == person


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_captions_fit_and_survive_the_tokenizer(tokenizer, seed):
    rng = np.random.default_rng(seed)
    person, context = sample_identity(rng), sample_context(rng)
    shown = visible_attributes(person, context)
    wall = {name: shown[name] for name in ("background", "pattern")}
    other = visible_attributes(sample_base_identity(rng), sample_context(rng))
    texts = [
        describe(person, context),
        random_caption(shown, rng),
        caption(shown, subject=f"{spare_token(0)} {spare_token(1)} person"),
        short_scene_caption(shown, other, wall, rng),
    ]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert len(ids) <= LENGTH, text
        words = [token.removesuffix("</w>") for token in tokenizer.convert_ids_to_tokens(ids)]
        assert words[1:-1] == text.split()


def test_every_word_is_one_token(tokenizer):
    assert [word for word in vocabulary() if len(tokenizer(word, add_special_tokens=False).input_ids) != 1] == []
    spare = [spare_token(i) for i in range(SPARE_TOKENS)]
    assert len(set(tokenizer.convert_tokens_to_ids(spare))) == SPARE_TOKENS
    assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(spare)
    # the control: a word that no caption holds falls apart
    assert len(tokenizer("zebra", add_special_tokens=False).input_ids) > 1


def test_captions_say_only_what_can_be_seen():
    hidden = visible_attributes(Identity("wild", "ginger", "pale", "shaven", "sunglasses"), Context(eyes="heart"))
    assert "eyes" not in hidden
    assert "hair" not in hidden
    text = caption(hidden)
    assert "wild" not in text
    assert "eyes" not in text
    assert "ginger hair" in text
    shown = visible_attributes(PERSON, Context(eyes="heart"))
    assert set(shown) == set(VALUES)
    assert "heart eyes" in caption(shown)
    assert caption({}) == "a photo of a person"


def test_scene_holds_each_person_in_its_box():
    left, right = Context(shift=(1, 0)), Context(mouth="serious")
    scene = Scene(PERSON, splits.identities("concept")[0], left, same_wall(left, right))
    image = draw_scene(scene)
    assert image.shape == (64, 128, 3)
    assert set(BOXES) == {"left", "right"}
    # dots and stripes repeat every 8 pixels, so each half is the portrait itself
    assert np.array_equal(cut(image, "left"), draw(scene.left, left))
    assert np.array_equal(cut(image, "right"), draw(scene.right, same_wall(left, right)))
