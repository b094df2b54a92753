"""Each rule of data.cleaning does what it says, and says what it did."""

from __future__ import annotations

import math
import pickle
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.core.config import dump, read
from dougong.core.errors import FieldError, MachineError
from dougong.data import cleaning
from dougong.data.cleaning import Cleaned, Config, check_packages, clean, fit_outliers, language_of
from tests.clear_error import check_clear, clear_error

KINDS = {"text": "text", "label": "category", "size": "number"}
ROW: dict[str, object] = {"text": "so good", "label": "yes", "size": "3.5", "unused": "x"}


def test_a_clean_row_passes_with_its_used_columns_and_numbers_as_floats() -> None:
    assert clean(ROW, KINDS, Config()) == Cleaned({"text": "so good", "label": "yes", "size": 3.5})


@pytest.mark.parametrize(
    ("text", "form", "want"),
    [
        ("a\r\nb\rc\x0cd", "nfc", "a\nb\nc\nd"),
        ("\ufeffa\x00b\x07\tc\n\x9f", "nfc", "ab\tc\n"),
        ("e\u0301", "nfc", "é"),
        ("ﬁve", "nfc", "ﬁve"),
        ("ﬁve Ａ", "nfkc", "five A"),
        ("👩\u200d👩\u200d👧", "nfc", "👩\u200d👩\u200d👧"),
        ("e\u0301\r\n\x07", "none", "e\u0301\r\n\x07"),
    ],
)
def test_unicode_is_repaired_and_the_change_is_told(text: str, form: str, want: str) -> None:
    config, _ = read(Config, {"unicode": form})
    cleaned = clean({"text": text}, {"text": "text"}, config)
    assert cleaned.values == {"text": want}
    assert cleaned.changed == (("unicode",) if want != text else ())


def test_repair_undoes_a_wrong_encoding_and_leaves_quotes_alone() -> None:
    config = Config(repair=True)
    assert clean({"text": "cafÃ© “x”"}, {"text": "text"}, config) == Cleaned({"text": "café “x”"}, changed=("repair",))


@pytest.mark.parametrize(
    ("config", "change", "rule"),
    [
        (Config(), {"text": " \n"}, "empty"),
        (Config(), {"text": "\x07\x00"}, "empty"),
        (Config(empty="keep"), {"text": ""}, None),
        (Config(), {"text": None}, "empty"),
        (Config(empty="keep"), {"text": None}, None),
        (Config(missing="drop"), {"label": None}, "missing"),
        (Config(missing="drop"), {"label": "  "}, "missing"),
        (Config(missing="drop"), {"label": math.nan}, "missing"),
        (Config(missing="drop"), {"size": ""}, "missing"),
        (Config(missing="drop"), {"size": "N/A"}, "missing"),
        (Config(missing="drop"), {"size": math.nan}, "missing"),
        (Config(missing="drop", empty="keep"), {"text": None}, "missing"),
        (Config(), {"size": "", "label": ""}, None),
        (Config(min_length=8), {}, "min_length"),
        (Config(min_length=7), {}, None),
        (Config(max_length=6), {}, "max_length"),
        (Config(max_length=7), {}, None),
        (Config(language=("zh",)), {"text": "This is certainly an English sentence."}, "language"),
        (Config(language=("zh", "en")), {"text": "This is certainly an English sentence."}, None),
        (Config(language=("zh",)), {"text": "床前明月光，疑是地上霜。举头望明月，低头思故乡。"}, None),
    ],
)
def test_every_rule_drops_what_it_says(config: Config, change: dict[str, object], rule: str | None) -> None:
    cleaned = clean({**ROW, **change}, KINDS, config)
    assert cleaned.dropped == rule
    assert (cleaned.values is None) == (rule is not None)
    assert cleaned.bad is None


def test_a_column_that_the_row_lacks_is_missing() -> None:
    assert clean({"text": "a", "size": 1}, KINDS, Config(missing="drop")).dropped == "missing"
    assert clean({"text": "a", "size": 1}, KINDS, Config()).values == {
        "text": "a",
        "label": None,
        "size": 1.0,
    }


@pytest.mark.parametrize("value", ["abc", "1,5", "1_000", "0x10", "٣", "1 2", b"3", [1], {"a": 1}, "--inf-", object])
def test_D1_what_is_no_number_makes_the_row_bad_and_names_column_and_value(value: object) -> None:
    cleaned = clean({**ROW, "size": value}, KINDS, Config())
    assert cleaned.values is None
    assert cleaned.bad
    assert cleaned.bad.startswith("column 'size': ")
    assert "is not a number" in cleaned.bad


@pytest.mark.parametrize(
    ("column", "value"),
    [("text", ["a b", "c"]), ("text", ["a", 1]), ("text", {"a": 1}), ("label", ["a"]), ("text", "a\ud800")],
)
def test_D1_D2_what_cannot_be_its_type_makes_the_row_bad(column: str, value: object) -> None:
    cleaned = clean({**ROW, column: value}, KINDS, Config())
    assert (cleaned.bad or "").startswith(f"column '{column}': ")


@pytest.mark.parametrize("value", ["inf", "-Infinity", math.inf, 1e308, "1e308", "1e999", 10**400, Decimal("1e400")])
def test_D7_infinite_and_too_large_numbers_are_missing_and_counted(value: object) -> None:
    cleaned = clean({**ROW, "size": value}, KINDS, Config(missing="keep"))
    assert cleaned.values is not None
    assert cleaned.values["size"] is None
    assert cleaned.changed == ("not_finite",)


@given(st.one_of(st.floats(), st.integers(), st.text(max_size=6), st.booleans(), st.none(), st.decimals(), st.binary()))
def test_D7_a_number_that_comes_out_is_always_finite_in_float32(value: object) -> None:
    cleaned = clean({"x": value}, {"x": "number"}, Config(missing="keep"))
    if cleaned.values and cleaned.values["x"] is not None:
        assert isinstance(cleaned.values["x"], float)
        assert np.isfinite(np.float32(cleaned.values["x"]))


@pytest.mark.parametrize("word", ["1", " -2.5 ", "+3e4", ".5", "5.", "1E-3", "007"])
def test_numbers_as_people_write_them(word: str) -> None:
    assert cleaning.to_number(word) == float(word)


def test_labels_and_paths_are_stripped_and_types_that_are_not_text_stay() -> None:
    kinds = {"tags": "labels", "photo": "image", "label": "category"}
    row: dict[str, object] = {"tags": [" a", 3], "photo": " cats/1.png", "label": 7}
    cleaned = clean(row, kinds, Config())
    assert cleaned.values == {"tags": ["a", 3], "photo": "cats/1.png", "label": 7}
    assert cleaned.changed == ("spaces",)
    assert clean({**row, "tags": ""}, kinds, Config()).values == {"tags": "", "photo": "cats/1.png", "label": 7}
    assert clean({**row, "photo": ""}, kinds, Config(missing="drop")).dropped == "missing"


@given(
    st.dictionaries(
        st.sampled_from(["text", "label", "size"]), st.one_of(st.text(), st.floats(), st.none(), st.lists(st.text()))
    )
)
def test_D1_every_row_is_kept_or_dropped_or_bad_and_cleaning_twice_changes_nothing(row: dict[str, object]) -> None:
    first = clean(row, KINDS, Config(missing="keep"))
    assert [first.values is not None, first.dropped is not None, first.bad is not None].count(True) == 1
    if first.values is not None:
        assert clean(first.values, KINDS, Config(missing="keep")) == Cleaned(first.values)
    assert pickle.loads(pickle.dumps(first)) == first  # it travels between processes


# ------------------------------------------------------------------------------------------------------------ outliers


def test_outliers_are_found_by_median_and_robust_deviation() -> None:
    values = np.array([*(float(i % 10) for i in range(1000)), *[1e6] * 50, math.nan])
    normal = fit_outliers([{"x": values, "same": np.full(len(values), 5.0)}], threshold=5.0)
    assert normal.center["x"] == pytest.approx(4.5, abs=0.51)
    assert "same" not in normal.center
    assert normal.found({"x": np.array([9.0, math.nan, 1e6]), "same": np.zeros(3)}).tolist() == [False, False, True]


def test_outliers_are_fitted_on_a_sample_of_fixed_size_and_always_the_same() -> None:
    pieces = [{"x": piece} for piece in np.split(np.arange(30_000.0), [1, 7_000, 7_000, 12_345])]
    first, second = (fit_outliers(iter(pieces), 3.0) for _ in range(2))
    assert first == second
    assert first.center["x"] == pytest.approx(15_000, rel=0.03)


def test_a_column_mostly_of_one_value_still_has_a_scale() -> None:
    values = np.repeat([0.0, 1.0], [90, 10])
    assert not fit_outliers([{"x": values}], 20.0).found({"x": values}).any()


def test_constant_columns_have_no_outliers() -> None:
    assert fit_outliers([{"x": np.ones(3)}], 1.0).found({"x": np.ones(4)}).tolist() == [False] * 4


# -------------------------------------------------------------------------------------------------------------- config


def test_a_config_reads_back_from_plain_values() -> None:
    config = Config(language=("en",), max_length=10, near_duplicates="drop")
    assert read(Config, dump(config)) == (config, [])


def test_wrong_settings_name_key_value_and_fix() -> None:
    wrongs: dict[str, dict[str, Any]] = {
        "max_length": {"min_length": 5, "max_length": 3},
        "language": {"language": ("english",)},
        "near_threshold": {"near_threshold": 0.0},
    }
    for key, wrong in wrongs.items():
        with clear_error(f"data.cleaning.{key}", error=FieldError):
            Config(**wrong)


def test_a_missing_package_is_told_before_any_row_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, config in (("ftfy", Config(repair=True)), ("py3langid", Config(language=("en",)))):
        cleaning._ftfy.cache_clear()
        cleaning._langid.cache_clear()
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MachineError) as caught:
            check_packages(config)
        check_clear(str(caught.value), package, "pip install 'dougong[data]'")
        monkeypatch.delitem(sys.modules, package)
    cleaning._ftfy.cache_clear()
    cleaning._langid.cache_clear()
    check_packages(Config())


def test_language_of_plain_sentences() -> None:
    assert language_of("Where have all the flowers gone, long time passing?") == "en"
    assert language_of("Ich weiß nicht, was soll es bedeuten, dass ich so traurig bin.") == "de"


def test_a_list_of_words_is_a_text() -> None:
    values = clean({**ROW, "text": ["two", "words"]}, KINDS, Config()).values
    assert values is not None
    assert values["text"] == "two words"
