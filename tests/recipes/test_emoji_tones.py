"""Emoji of which some combinations are held out: of each the emoji and the tone are known, not both together."""

from __future__ import annotations

from tests.scripts import load

for script in ("fetch", "tables", "emoji"):  # which it imports
    load(f"recipes/data/{script}.py")
emoji_tones = load("recipes/data/emoji_tones.py")
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")


def test_a_fifth_of_each_emojis_tones_is_held_out_and_its_halves_are_known() -> None:
    bases = {
        name: [{"image": b"", "name": name}, *({"image": b"", "name": f"{name}: {tone} skin tone"} for tone in TONES)]
        for name in ("person surfing", "waving hand", "baby", "woman judge", "ear")
    } | {"apple": [{"image": b"", "name": "apple"}]}
    train, test = emoji_tones.split(bases)
    assert len(train) + len(test) == 5 * 6 + 1
    assert len(test) == 5
    known = {str(row["name"]) for row in train}
    for row in test:
        emoji, tone = str(row["name"]).split(": ")
        assert str(row["name"]) not in known
        assert emoji in known
        assert any(name.endswith(tone) for name in known)
    assert (train, test) == emoji_tones.split(bases)  # by a hash of its name, not by chance
