"""Tokenizers: text -> tokens. Bytes, characters, BPE, unigram, WordPiece, or the file of a finished one.

Sources: byte-level BPE after Radford et al. 2019; unigram after Kudo 2018; WordPiece after Schuster & Nakajima 2012, of
words as BERT cuts them (Devlin et al. 2019).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from zlib import crc32

from pydantic import Field
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from dougong.core.config import Count, config
from dougong.core.errors import DataError, bad_field
from dougong.data.sentencepiece import SentencePiece
from dougong.data.words import CUT, WORDS, cut_by, parts, word_pattern

END = "<|end|>"  # closes every text; what a language model begins from
UNKNOWN = "<|unknown|>"
MASK = "<|mask|>"  # stands where a token is hidden (objective: masked)
SAMPLE_CHARACTERS = 50_000_000  # a tokenizer is trained on at most so much text, whatever the size of the data
TRAINING_WORDS = 2_000_000  # by whose counts
COVERAGE = 0.9995  # of the characters of a text WordPiece knows so many, as sentencepiece has it
GROUP_CHARACTERS = 500_000  # are encoded together


@config
class ByteTokenizer:
    """Each byte of UTF-8 is a token: no training, nothing unknown, long sequences."""

    kind: Literal["byte"] = "byte"


@config
class CharTokenizer:
    """Each character is a token; those beyond the `vocab_size` most frequent are unknown."""

    kind: Literal["char"] = "char"
    vocab_size: Annotated[Count, Field(ge=3)] = 16_384


@config
class LearntTokenizer:
    """What is learnt from texts: every byte, or the more frequent characters, and what often stands together."""

    vocab_size: Annotated[Count, Field(ge=260)] = 8192


@config
class BPETokenizer(LearntTokenizer):
    """Byte-level byte-pair encoding: nothing is unknown."""

    kind: Literal["bpe"] = "bpe"


@config
class UnigramTokenizer(LearntTokenizer):
    """A unigram language model over bytes: nothing is unknown."""

    kind: Literal["unigram"] = "unigram"


@config
class WordPieceTokenizer(LearntTokenizer):
    """Words without the space between them, and `##` parts of words; a word with a character that is not known is unknown."""

    kind: Literal["wordpiece"] = "wordpiece"


@config
class FileTokenizer:
    """A finished `tokenizer.json`, or a sentencepiece `.model`."""

    kind: Literal["file"] = "file"
    path: str
    end: str | None = None  # its end-of-text token; found by its usual names unless given


@config
class InitTokenizer:
    """That of the run which the model begins with (`model.init`): a recipe makes a FileTokenizer of it."""

    kind: Literal["init"] = "init"
    end: str | None = None

    def found(self, folder: Path, name: str) -> FileTokenizer:
        """The file in a run's model folder: that of the field of this name, or of its only text."""
        names = [file_name(ending, field) for field in (name, None) for ending in (".json", ".model")]
        there = [folder / each for each in names if (folder / each).is_file()]
        return FileTokenizer(path=str(there[0] if there else folder / file_name(".json", None)), end=self.end)


TokenizerConfig = Annotated[
    ByteTokenizer
    | CharTokenizer
    | BPETokenizer
    | UnigramTokenizer
    | WordPieceTokenizer
    | FileTokenizer
    | InitTokenizer,
    Field(discriminator="kind"),
]
AnyTokenizer = Tokenizer | SentencePiece


def train(config: TokenizerConfig, texts: Iterable[str], *, lowercase: bool = False) -> AnyTokenizer:
    """A tokenizer of the asked kind, trained on `texts` unless it needs none; with `lowercase` it lowers what it reads."""
    return TRAINERS[config.kind](config, texts, lowercase)


def _train_byte(config: ByteTokenizer, texts: Iterable[str], lowercase: bool) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate([END, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    return _byte_level(Tokenizer(models.BPE(vocab=vocabulary, merges=[])), lowercase)


def _train_char(config: CharTokenizer, texts: Iterable[str], lowercase: bool) -> Tokenizer:
    counts: Counter[str] = Counter()
    lower = normalizers.Lowercase().normalize_str  # not str.lower: the two disagree about the last sigma of a word
    for text in texts:
        counts.update(lower(text) if lowercase else text)
    kept = sorted(counts, key=lambda character: (-counts[character], character))[: config.vocab_size - 2]
    vocabulary = {token: index for index, token in enumerate([END, UNKNOWN, *kept])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _finish(tokenizer, lowercase)


def _train_bpe(config: BPETokenizer, texts: Iterable[str], lowercase: bool) -> Tokenizer:
    tokenizer = _byte_level(Tokenizer(models.BPE()), lowercase)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    _train_on_parts(tokenizer, texts, trainer)
    return tokenizer


def _train_unigram(config: UnigramTokenizer, texts: Iterable[str], lowercase: bool) -> Tokenizer:
    untrained = _byte_level(Tokenizer(models.Unigram()), lowercase)
    trainer = trainers.UnigramTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # every byte has a token: nothing can be unknown
        show_progress=False,
    )
    _train_on_parts(untrained, texts, trainer)
    learnt = json.loads(untrained.to_str())["model"]["vocab"]
    # The trainer goes through a hash table, in another order each time: sums differ in their last digits, and the bytes
    # that no text holds get the lowest scores, 0.0001 apart, in that order. Made the same here.
    scores = {piece: round(score, 6) for piece, score in learnt if piece != END}
    lowest = min(scores.values())
    scores |= {piece: lowest for piece, score in scores.items() if len(piece) == 1 and score < lowest + 0.03}
    vocabulary = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return _byte_level(Tokenizer(models.Unigram([(END, 0.0), *vocabulary])), lowercase)


def _train_wordpiece(config: WordPieceTokenizer, texts: Iterable[str], lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    cutter = pre_tokenizers.BertPreTokenizer()  # at white space, which it drops, and on both sides of every mark
    # Control characters away, spaces round each Chinese character; of lower case also without accents, as BERT reads it.
    normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase
    )
    counted = _bert_words(texts, normalizer, cutter)
    known = _frequent_characters(counted, config.vocab_size - 2)
    continued = sorted({f"##{character}" for word in counted for character in word[1:] if character in known})
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        # Numbered here: the trainer goes through a hash table, and would number these in another order each time.
        special_tokens=[END, UNKNOWN, *continued],
        show_progress=False,
    )
    learnable = Counter({word: count for word, count in counted.items() if known.issuperset(word)})
    _train_on_counts(tokenizer, learnable, trainer, pre_tokenizers.Split(CUT, behavior="removed"))
    vocabulary = tokenizer.get_vocab()
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer, tokenizer.normalizer = cutter, normalizer
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return _closed(tokenizer)


def _bert_words(
    texts: Iterable[str], normalizer: normalizers.Normalizer, cutter: pre_tokenizers.PreTokenizer
) -> Counter[str]:
    """What BERT cuts texts into, and how often each occurs; what stands between spaces is cut once."""
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(text.split())
    counted: Counter[str] = Counter()
    for chunk, count in chunks.items():
        for word, _ in cutter.pre_tokenize_str(normalizer.normalize_str(chunk)):
            counted[word] += count
    return counted


def _frequent_characters(words: Counter[str], most: int) -> set[str]:
    """The most frequent characters, until they make up COVERAGE of all or fill `most` tokens, with their `##` forms."""
    counted: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        inside.update(word[1:])
        for character in word:
            counted[character] += count
    kept: set[str] = set()
    left, covered = most, 0
    for character, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        left -= 1 + (character in inside)
        if left < 0 or covered >= COVERAGE * counted.total():
            break
        kept.add(character)
        covered += count
    return kept


def _train_on_parts(tokenizer: Tokenizer, texts: Iterable[str], trainer: trainers.Trainer) -> None:
    """Train on the bytes of words that were counted here: the library's own way cuts them anew wherever they occur."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cutter = pre_tokenizers.Sequence([pre_tokenizers.Split(CUT, behavior="removed"), byte_level])
    _train_on_counts(tokenizer, parts(groups(texts, 8 * GROUP_CHARACTERS)), trainer, cutter)


def _train_on_counts(
    tokenizer: Tokenizer, counted: Counter[str], trainer: trainers.Trainer, cutter: pre_tokenizers.PreTokenizer
) -> None:
    """Train on words, of which `cutter` gets many at once with CUT between them.

    Of very many each is given as often as its share of TRAINING_WORDS. A hash of the word decides on the last one: where
    nearly all are different, as in Chinese, which has no spaces, an even part of them is given.
    """
    share = min(1.0, TRAINING_WORDS / max(counted.total(), 1))
    often = ((word, int(count * share + crc32(word.encode()) / 2**32)) for word, count in sorted(counted.items()))
    before, tokenizer.pre_tokenizer = tokenizer.pre_tokenizer, cutter
    tokenizer.train_from_iterator(_repeated(often), trainer)
    tokenizer.pre_tokenizer = before


def _repeated(often: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Every word as often as asked for, in texts of bounded size. (One that holds CUT is cut there.)"""
    for word, count in often:
        most = max(1, GROUP_CHARACTERS // len(word))
        for start in range(0, count, most):
            yield CUT.join([word] * min(most, count - start))


def _open_file(config: FileTokenizer, texts: Iterable[str], lowercase: bool) -> AnyTokenizer:
    path = Path(config.path)
    try:
        if path.suffix == ".model":
            return SentencePiece(path.read_bytes(), str(path))
        return _from_text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        expected = "a tokenizer.json, or a sentencepiece .model, that can be read"
        raise bad_field("tokenizer.path", str(path), expected, str(error)) from None


TRAINERS: dict[str, Callable[[Any, Iterable[str], bool], AnyTokenizer]] = {
    "byte": _train_byte,
    "char": _train_char,
    "bpe": _train_bpe,
    "unigram": _train_unigram,
    "wordpiece": _train_wordpiece,
    "file": _open_file,
}
UNTRAINED = ("byte", "file")
BYTE_LEVEL = ("byte", "bpe", "unigram")  # dougong's own, cut into words first


def _byte_level(tokenizer: Tokenizer, lowercase: bool) -> Tokenizer:
    """Text as bytes, cut into words first, so that no token spans two of them."""
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, lowercase)


def _finish(tokenizer: Tokenizer, lowercase: bool) -> Tokenizer:
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    return _closed(tokenizer)


def _closed(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([END])
    # A text that happens to hold "<|end|>" must not end there: special tokens are never found in the text of a user.
    tokenizer.encode_special_tokens = True
    return tokenizer


def to_json(tokenizer: AnyTokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())


def from_json(saved: dict[str, Any], source: str) -> AnyTokenizer:
    if "sentencepiece" in saved:
        return SentencePiece.from_saved(saved, source)
    return _from_text(json.dumps(saved, ensure_ascii=False), source)


def as_file(tokenizer: AnyTokenizer) -> tuple[str, bytes]:
    """What other programs read it from: the ending of the file's name, and its contents."""
    if isinstance(tokenizer, SentencePiece):
        return ".model", tokenizer.model
    return ".json", tokenizer.to_str().encode()


def file_name(ending: str, field: str | None) -> str:
    """What a run calls the file: `field` is named where it has several texts."""
    return f"tokenizer{ending}" if field is None else f"tokenizer-{field}{ending}"


def _from_text(text: str, source: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise DataError(
            f"{source}: not a tokenizer.json ({error}). Fix: give the file that `tokenizers` saved."
        ) from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()  # the length is the recipe's to say
    tokenizer.no_padding()
    return tokenizer


def unknown_token(tokenizer: AnyTokenizer) -> int | None:
    """The token that stands for whatever a tokenizer does not know, if it has one."""
    if isinstance(tokenizer, SentencePiece):
        return tokenizer.unknown
    if isinstance(tokenizer.model, models.Unigram):
        return json.loads(tokenizer.to_str())["model"]["unk_id"]
    token = tokenizer.model.unk_token
    return tokenizer.token_to_id(token) if token else None


def mask_token(config: TokenizerConfig, tokenizer: AnyTokenizer) -> str:
    usual = [MASK, "[MASK]", "<mask>"]
    vocabulary = tokenizer.get_vocab()
    for token in usual:
        if token in vocabulary:
            return token
    path = config.path if isinstance(config, FileTokenizer) else config.kind
    expected = f"for objective: masked a tokenizer with a mask token ({', '.join(usual)})"
    raise bad_field("tokenizer.path", path, expected, "add one to the file, or have one trained: tokenizer: bpe")


def known_pattern(config: TokenizerConfig, tokenizer: AnyTokenizer) -> str | None:
    """The pattern by which a text is cut into words, if nothing is lost there, and no token spans two of them."""
    if isinstance(tokenizer, SentencePiece):
        return None
    if config.kind == "file":
        return word_pattern(tokenizer)
    # A run goes on with the pattern that its tokenizer was trained with: what the tokenizer itself says, not WORDS.
    return cut_by(json.loads(tokenizer.pre_tokenizer.__getstate__())) if config.kind in BYTE_LEVEL else None


def spaces_put(tokenizer: AnyTokenizer, decoded: str) -> int:
    """How many spaces of a decoded text its tokens do not tell of: WordPiece puts one between any two words, also in `it ' s`.

    Known to have been there are those without which two words would be one.
    """
    if isinstance(tokenizer, SentencePiece) or not isinstance(tokenizer.decoder, decoders.WordPiece):
        return 0
    joined = decoded.replace(" ", "")
    return len(decoded) - len(joined) - (_words_in(tokenizer, decoded) - _words_in(tokenizer, joined))


def _words_in(tokenizer: Tokenizer, text: str) -> int:
    normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(normal)) if tokenizer.pre_tokenizer else 1


def end_token(config: TokenizerConfig, tokenizer: AnyTokenizer) -> str:
    named = config.end if isinstance(config, FileTokenizer) else None
    usual = [named] if named else [END, "<|endoftext|>", "</s>", "<|end_of_text|>", "<|im_end|>", "<eos>", "[SEP]"]
    for token in usual:
        if tokenizer.token_to_id(token) is not None:
            return token
    raise bad_field(
        "tokenizer.end", named, "a token of the vocabulary", "write tokenizer: {kind: file, path: …, end: TOKEN}"
    )


def groups(texts: Iterable[str], characters: int | None = None) -> Iterator[list[str]]:
    """Texts in groups of bounded size: while it is encoded a token takes a hundred bytes."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= (characters or GROUP_CHARACTERS):
            yield group
            group, size = [], 0
    if group:
        yield group


def sample(values: Iterable[str | None]) -> Iterator[str]:
    """Texts up to SAMPLE_CHARACTERS; one longer than 1 M characters is cut, so that it cannot be the whole sample."""
    taken = 0
    for value in values:
        if value:
            yield value[:1_000_000]
            taken += min(len(value), 1_000_000)
            if taken >= SAMPLE_CHARACTERS:
                return
