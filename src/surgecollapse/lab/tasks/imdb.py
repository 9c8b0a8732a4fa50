"""Film reviews (IMDb), good or bad."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgecollapse.lab.tasks.registry import TEXT_LENGTH, ClassTask, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


@task("imdb")
class IMDb(ClassTask):
    """Film reviews as rows of word numbers, see :func:`~surgecollapse.lab.data.imdb.imdb`."""

    preset: ClassVar[Preset] = {
        "model": "lstm",
        "widths": (64, 128),
        "text_length": 100,
        "train_samples": 3_000,
        "dropout": 0.3,
        "steps": 600,
        "batch_size": 50,
        "lr": 2e-3,
        "clip": 5.0,
        "schedule": "cosine",
    }
    draws_samples = True

    vocabulary: int = Field(1_000, ge=1, le=1_000_000, description="Reviews: most frequent words that are known.")
    text_length: int = Field(500, ge=1, le=100_000, description=TEXT_LENGTH)
    drop_stop_words: bool = Field(
        False, description="Reviews: read known words alone, and no stop words; else unknown ones have a number, too."
    )

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets."""
        from surgecollapse.lab.data.imdb import imdb

        del representation
        return imdb(
            seed,
            data_dir=self.data_dir,
            vocabulary=self.vocabulary,
            length=self.text_length,
            samples=self.train_samples,
            drop_stop_words=self.drop_stop_words,
        )
