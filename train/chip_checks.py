"""Settings against the number, the size and the bands of the chips, and the name of the network. Imports nothing heavy.

In: a configuration and plain numbers. Out: a UserError that names the setting. `known_chips` finds the numbers without
opening a store, so that most of what cannot work is refused before anything is installed. Leaves the split, and all
that needs numpy, to `early_checks`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from models.archs import ARCHS, INSTALL_TIMM, timm_names
from preprocess.commands import ConversionSettings
from preprocess.console import UserError
from preprocess.csv_rows import SEPARATORS, read_table
from preprocess.files import is_url
from preprocess.messages import bad, did_you_mean
from preprocess.suffixes import is_csv
from train.config import Config


@dataclass(frozen=True, kw_only=True)
class KnownChips:
    """What is known of the chips: at most so many, and perhaps their bands and sides. `where`: for messages."""

    where: str
    at_most: int
    bands: tuple[str, ...] = ()
    sides: tuple[int, int] | None = None

    def check(self, config: Config) -> None:
        """UserError if a new training of these chips cannot work."""
        if self.bands:
            check_bands(config, self.bands, self.where)
        if self.sides:
            check_crop(config, *self.sides, self.where)
        if config.batch > self.at_most:
            raise UserError(
                f"BATCH={config.batch}: expected at most {self.at_most}, the number of chips of {self.where}."
            )


# Of `preprocess.demo`.
DEMO = KnownChips(where="the demo", at_most=900, bands=("blue", "green", "red", "nir"), sides=(64, 64))


def known_chips(config: Config, conversion: ConversionSettings | None) -> KnownChips | None:
    """The chips of a store on disk, or the rows of the CSV of a conversion; None where neither tells. (A parquet file
    does not: pyarrow may not be installed yet.)

    Raises:
        UserError: the CSV cannot be read.
    """
    if not is_url(config.store) and (known := _of_store(Path(config.store))):
        return known
    if conversion and conversion.labels and is_csv(conversion.labels):
        rows = read_table(conversion.labels, SEPARATORS.get(conversion.csv_separator, conversion.csv_separator)).rows
        return KnownChips(where=str(conversion.labels), at_most=sum(1 for _ in rows))
    return None


def _of_store(store: Path) -> KnownChips | None:
    """From the attributes alone. None if they cannot be read: opening the store says why."""
    try:
        attributes = json.loads((store / "zarr.json").read_bytes())["attributes"]
        layout = attributes["layout"]
        return KnownChips(
            where=str(store), at_most=int(attributes["num_tiles"]), bands=tuple(map(str, layout["bands"])),
            sides=(int(layout["height"]), int(layout["width"])),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def check_bands(config: Config, bands: tuple[str, ...], where: Path | str) -> None:
    """UserError if the chips lack a band that the network needs."""
    config.band_choice.check_stored(bands, where)


def check_arch(arch: str) -> None:
    """UserError if there is no such network. timm's networks are there if timm is installed."""
    if arch in ARCHS:
        return
    names = timm_names()
    if arch not in names:
        timm = "of timm" if names else f"of timm, which is not installed ({INSTALL_TIMM})"
        hint = did_you_mean(arch, {*ARCHS, *names}, "ARCH")
        raise bad("ARCH", arch, f"one of {', '.join(ARCHS)}, or a network {timm}{hint}")


def check_crop(config: Config, height: int, width: int, where: Path | str) -> None:
    """UserError if the chips are smaller than the crop."""
    if config.crop > min(height, width):
        raise UserError(
            f"CROP={config.crop}: expected at most {min(height, width)}: the chips of {where} are {height} x {width} "
            "pixels."
        )


def check_batch_size(config: Config, num_train: int, height: int, width: int) -> None:
    """UserError if a batch is larger than the train split, or so small that BatchNorm has nothing to average."""
    if num_train < config.batch:
        raise UserError(f"BATCH={config.batch}: the train split has only {num_train} chips. Choose a smaller BATCH.")
    side = min(config.crop_of(height, width))
    # A ResNet divides the side by 32, without max pooling or with a small stem by 16, with both by 8. BatchNorm needs
    # two values per channel.
    smallest = 32 // (1 + (not config.pools(height, width))) // (1 + (config.stem_of(height, width) == "small"))
    if config.batch // config.accumulate == 1 and side <= smallest:
        raise UserError(
            f"BATCH={config.batch}, ACCUMULATE={config.accumulate}: chips of {side} px shrink to one value per "
            "channel, and BatchNorm needs at least two. Use two or more chips per micro-batch."
        )
