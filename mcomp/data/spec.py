"""What a recipe says under ``data:``, for every data set. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from mcomp.options import Options
from mcomp.suggest import did_you_mean

Augment = Literal["auto", "none", "flip", "shift", "flip_shift"]


class DataOptions(Options):
    """Keys that every data set understands."""

    name: str = Field(description="`digits`, `synthetic`, `image_folder`, `cifar10`, …, or `file.py:factory`")
    image_size: int | None = Field(None, ge=4, le=2048, description="height and width; images are resized to it")
    batch_size: int = Field(64, ge=1, description="images per batch where a stage does not say")
    channels: Literal[1, 3] = Field(3, description="channels of the tensors; grey images are repeated to three")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="part of train that is held out for every choice")
    augment: Augment = Field("auto", description="training images: shifted by up to an eighth, flipped left to right")
    mean: list[float] | None = Field(None, description="per channel, for pixels in 0..1; measured on train by default")
    std: list[float] | None = Field(None, description="per channel; measured on train by default")
    limit: int | None = Field(None, ge=2, description="use only so many images of each split, for quick runs")

    @field_validator("channels", mode="before")
    @classmethod
    def _whole(cls, channels: object) -> object:
        if isinstance(channels, bool | float):  # `true` and `1.0` equal 1, and are no number of channels
            raise PydanticKnownError("literal_error", {"expected": "1 or 3"})
        return channels

    @field_validator("std")
    @classmethod
    def _positive(cls, std: list[float] | None) -> list[float] | None:
        if std is not None and min(std, default=0) <= 0:
            raise ValueError("every standard deviation must be above 0")
        return std

    @model_validator(mode="after")
    def _one_per_channel(self) -> DataOptions:
        for key in ("mean", "std"):
            value = getattr(self, key)
            if value is not None and len(value) not in (1, self.channels):
                raise ValueError(f"{key} has {len(value)} numbers for {self.channels} channels")
        return self


class TestFractionOptions(DataOptions):
    """Keys of sets that may come without a test split."""

    __test__ = False  # the name begins with Test, which pytest would collect

    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="part held out for reporting, where there is no test split"
    )


class SyntheticOptions(DataOptions):
    """Keys of ``synthetic``."""

    num_classes: int = Field(10, ge=2, le=1000, description="number of patterns")
    samples: int = Field(1000, ge=10, le=1_000_000, description="images of all splits together")
    image_size: int | None = Field(16, ge=4, le=2048, description="height and width")
    noise: float = Field(0.15, ge=0, le=1, description="standard deviation of the noise, in units of full brightness")
    pattern_seed: int = Field(0, ge=0, description="chooses the patterns and the noise")


class TwoDigitsOptions(TestFractionOptions):
    """Keys of ``two_digits``."""

    samples: int = Field(12_000, ge=500, le=1_000_000, description="images of all splits together")
    image_size: int | None = Field(32, ge=16, le=256, description="height and width")
    fragments: int = Field(3, ge=0, le=32, description="quarters of other digits strewn over each image")
    draw_seed: int = Field(0, ge=0, le=2**32, description="chooses scans, places, warps and noise")


class FolderOptions(TestFractionOptions):
    """Keys of ``image_folder``."""

    root: str = Field(description="folder of one folder per class, or of `train`, `val` and `test` with those inside")
    image_size: int | None = Field(32, ge=4, le=2048, description="height and width; images are resized to it")


class ImageNetOptions(FolderOptions):
    """Keys of ``imagenet``."""

    image_size: int | None = Field(224, ge=4, le=2048, description="height and width; images are resized to it")


class DownloadOptions(DataOptions):
    """Keys of the sets that torchvision reads."""

    root: str = Field("data", description="folder that holds torchvision's files")
    download: bool = Field(
        False,
        description="allow torchvision to download what is missing (about 30 to 170 MB)",
        json_schema_extra={"cache": "ignore"},
    )


class UserOptions(TestFractionOptions):
    """Keys of a user's own data set: the rest goes to its factory as it is."""

    model_config = ConfigDict(extra="allow")

    num_classes: int | None = Field(None, ge=2, description="counted from the labels when left out")


@dataclass(frozen=True)
class DataEntry:
    """A data set mcomp knows: its options and where its reader is.

    Attributes:
        name: as in a recipe.
        module: full name of the module with ``read(options, place) -> Raw``.
        options: every flat key allowed under ``data:`` for this name.
        summary: one line for listings.
        augment: what ``auto`` means: ``shift``, ``flip_shift`` or ``none``.
    """

    name: str
    module: str
    options: type[DataOptions]
    summary: str
    augment: Augment


DATASETS: dict[str, DataEntry] = {
    entry.name: entry
    for entry in (
        DataEntry(
            "digits", "mcomp.data.digits", DataOptions, "1797 scans of handwritten digits, 8 x 8, embedded", "shift"
        ),
        DataEntry("synthetic", "mcomp.data.synthetic", SyntheticOptions, "seeded patterns, one per class", "none"),
        DataEntry(
            "two_digits",
            "mcomp.data.two_digits",
            TwoDigitsOptions,
            "pairs of warped, cluttered digits, 100 classes, drawn from the embedded scans",
            "none",
        ),
        DataEntry(
            "image_folder", "mcomp.data.image_folder", FolderOptions, "a folder of images per class", "flip_shift"
        ),
        DataEntry(
            "imagenet", "mcomp.data.image_folder", ImageNetOptions, "ImageNet as folders train and val", "flip_shift"
        ),
        DataEntry("cifar10", "mcomp.data.torchvision_sets", DownloadOptions, "60 000 photos, 10 classes", "flip_shift"),
        DataEntry(
            "cifar100", "mcomp.data.torchvision_sets", DownloadOptions, "60 000 photos, 100 classes", "flip_shift"
        ),
        DataEntry("fashion_mnist", "mcomp.data.torchvision_sets", DownloadOptions, "70 000 grey articles", "shift"),
    )
}

USER = DataEntry("file.py:factory", "mcomp.data.user_sets", UserOptions, "your own datasets or arrays", "none")


def entry_of(name: str) -> DataEntry:
    """The entry for a name; a user's factory has the common one."""
    return DATASETS.get(name, USER)


def options_for(name: str) -> type[DataOptions]:
    """The pydantic model of all keys allowed under ``data:`` for this name."""
    return entry_of(name).options


def known_names() -> list[str]:
    """Names to suggest and to list."""
    return list(DATASETS)


def unknown_name(name: str) -> str | None:
    """None when a data set of this name can be asked for; else what is wrong with it."""
    if name in DATASETS:
        return None
    if ":" not in name:
        meant = did_you_mean(name, DATASETS)
        return f"unknown data set `{name}`" + (f"; {meant}" if meant else "")
    target, _, function = name.rpartition(":")
    dotted = all(part.isidentifier() for part in target.split("."))
    if function.isidentifier() and (dotted or target.removesuffix(".py") not in ("", target)):
        return None
    return f"`{name}` is neither a known data set nor `file.py:factory` nor `module:factory`"


def needs_trust(name: str) -> bool:
    """True for a user's ``file.py:factory`` or ``module:factory``: loading it runs their code."""
    return ":" in name


def user_file(name: str, base_dir: Path | None) -> Path | None:
    """The file whose code a user's factory is; None for other sets and for modules that are not found."""
    from mcomp.models.registry import user_file as file_of

    return file_of(name, base_dir)


def extras(options: DataOptions) -> dict[str, Any]:
    """The keys that a user's factory is called with."""
    return dict(options.model_extra or {})
