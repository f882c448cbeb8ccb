"""Topics of real text: enough of it, without duplicates, the same again from the same stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqlora.errors import BadInputError
from theory.layers import text


def drawn(topic: str, count: int = 64, seed: int = 0) -> list[str]:
    return text.passages(topic, count, np.random.default_rng(seed))


@pytest.mark.parametrize("topic", sorted(text.TOPICS))
def test_each_topic_gives_distinct_prose(topic: str) -> None:
    passages = drawn(topic)
    assert len(passages) == 64
    assert len({" ".join(passage.lower().split()[:8]) for passage in passages}) == 64
    for passage in passages:
        assert len(passage.split()) >= text.MIN_WORDS
        assert ">>>" not in passage
        assert "\n" not in passage


def test_there_are_seven_topics_with_a_licence_and_a_version() -> None:
    assert len(text.TOPICS) >= 7
    provenance = text.provenance()
    assert set(provenance) == set(text.TOPICS)
    assert np.__version__ in provenance["numpy"]
    assert all("(" in line for line in provenance.values())


def test_the_stream_decides_and_nothing_else() -> None:
    assert drawn("signal") == drawn("signal")
    assert drawn("signal") != drawn("signal", seed=1)


def test_fewer_passages_than_asked_for_come_back_where_there_are_no_more() -> None:
    everything = drawn("signal", count=10**6)
    assert 64 < len(everything) < 10**6
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize(
    ("block", "prose"),
    [
        ("The quick brown fox jumps over the lazy dog and then it sleeps all day long.", True),
        ("x : array_like\n    The quick brown fox jumps over the lazy dog and then it sleeps all day.", True),
        ("Too short to be a window.", False),
        (">>> The quick brown fox jumps over the lazy dog and then it sleeps all day long.", False),
        ("The 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 numbers here.", False),
        ("the quick brown fox starts in lower case and so it is the rest of some sentence.", False),
        ("", False),
    ],
)
def test_prose_is_told_from_listings(block: str, prose: bool) -> None:
    assert bool(text._prose(block)) == prose


def test_a_file_that_does_not_parse_has_no_text(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text('"""The quick brown fox jumps over the lazy dog and then it sleeps all day."""\ndef (')
    assert list(text._paragraphs(broken)) == []
    broken.write_bytes(b"\x00\xff")
    assert list(text._paragraphs(broken)) == []
    assert list(text._paragraphs(tmp_path / "missing.py")) == []


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="no text topic 'poetry'"):
        drawn("poetry")
    monkeypatch.setitem(text.TOPICS, "absent", text.Topic("no_such_package", (".",), "MIT"))
    with pytest.raises(BadInputError, match="pip install no_such_package"):
        drawn("absent")
