"""The tutorial is a program: its blocks run in order, and what the page shows is what they print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace


def test_every_block_runs_and_prints_what_the_page_shows(run_page: Callable[..., int], tmp_path: Path) -> None:
    assert run_page("tutorial.md", ("python", "sh")) >= 6
    assert (tmp_path / "cat-lora" / "adapter_model.safetensors").exists()
    assert (tmp_path / "figures" / "method_comparison.png").stat().st_size > 0


def test_no_block_is_left_out(page_tools: SimpleNamespace) -> None:
    text = (page_tools.root / "docs" / "tutorial.md").read_text(encoding="utf-8")
    found = page_tools.blocks(text)
    assert len(found) == text.count("```") // 2
    assert {language for language, _ in found} == {"python", "sh", "text"}


def test_another_output_would_be_seen(page_tools: SimpleNamespace) -> None:
    agree, shown = page_tools.agree, "cat: just trained 0.11, after dog 0.69"
    assert agree("cat: just trained 0.12, after dog 0.70\n", shown)
    assert not agree("cat: just trained 0.11, after dog 0.15", shown)
    assert not agree("dog: just trained 0.11, after dog 0.69", shown)
    assert not agree("", shown)
