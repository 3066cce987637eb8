"""The figures of a checkpoint reach its manifest and its card, and nothing else in the card changes."""

from pathlib import Path

import pytest

from unet_factory_training.evaluation_report import fill_card

CARD_START, CARD_END = "<!-- figures -->", "<!-- /figures -->"
FIGURES = [{"region": "native", "dice": {"left": 0.91249, "right": 0.5}, "dice_mean": 0.7, "dice_std": 0.0123}]


def test_a_card_gets_the_figures_between_its_marks(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(f"# Card\n\n{CARD_START}\nold | figures\n{CARD_END}\n\nLimits.\n")
    fill_card(card, FIGURES)
    once = card.read_text()
    assert once == (
        f"# Card\n\n{CARD_START}\n| spacing (R,A,S) | left | right | mean | std |\n| --- | --- | --- | --- | --- |\n"
        f"| native | 0.912 | 0.500 | 0.700 | 0.012 |\n{CARD_END}\n\nLimits.\n"
    )
    fill_card(card, FIGURES)
    assert card.read_text() == once


def test_a_card_without_marks_is_left_alone(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Card\n")
    with pytest.raises(ValueError, match=r"card\.md has no lines"):
        fill_card(card, FIGURES)
    assert card.read_text() == "# Card\n"
