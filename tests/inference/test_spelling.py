from __future__ import annotations

from tokenizers import decoders, pre_tokenizers

from dougong.inference.spelling import BYTES, Spellings, Vocabulary


def test_the_byte_level_alphabet_is_that_of_the_tokenizers_library() -> None:
    assert BYTES.keys() == {*pre_tokenizers.ByteLevel.alphabet()}
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for point in (*range(0x100), 0x5E8A, 0x1F600):
        ((shown, _),) = level.pre_tokenize_str(chr(point))
        assert bytes(BYTES[character] for character in shown) == chr(point).encode()
        assert decoders.ByteLevel().decode([shown]) == chr(point)


def test_tokens_that_write_nothing_are_left_out_and_the_others_stand_end_to_end() -> None:
    found = Spellings.of({4: b"ab", 7: b"", 9: b"c"})
    assert found.tokens.tolist() == [4, 9]
    assert [
        bytes(found.values[start : start + size]) for start, size in zip(found.starts, found.sizes, strict=True)
    ] == [b"ab", b"c"]


def test_a_vocabulary_is_bytewise_where_each_byte_of_utf8_is_a_token() -> None:
    spelled = {value: bytes([value]) for value in range(256) if value not in (0xC0, 0xC1, *range(0xF5, 0x100))}
    assert Vocabulary(spelled, None).bytewise
    del spelled[0x80]
    assert not Vocabulary(spelled, None).bytewise
