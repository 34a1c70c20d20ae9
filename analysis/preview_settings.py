"""The command `preview`: its settings, which are those of a training that change what the network sees.

In: words. Out: a `PreviewRequest`, checked as far as words and files' names show it. Imports nothing heavy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import create_model

from preprocess.band_names import COLOURS
from preprocess.console import UserError
from preprocess.files import is_url, partial_path, store_place
from preprocess.setting_specs import specs
from preprocess.settings import Settings, read_words, setting
from train.config import Config, make_config
from train.preview_words import SEEN


class PreviewWords(Settings):
    """The picture, and the two settings that differ from those of a training."""

    heading: ClassVar[str] = "The picture"

    store: str = setting(
        ..., "The store: a folder, or an address such as s3://bucket/chips.zarr.", hint="path",
        example="STORE=chips.zarr",
    )  # fmt: skip
    task: Literal[1, 3, 4] | None = setting(
        None, "The bands of this task, as `train` takes them.", default_text="all bands of the store"
    )
    chips: int = setting(8, "How many chips of the batch are shown.", ge=1, le=64)
    out: Path | None = setting(None, "The picture.", hint="file.png", default_text="STORE.preview.png")


_fields: dict[str, Any] = {name: (Config.model_fields[name].annotation, Config.model_fields[name]) for name in SEEN}
SeenSettings: type[Settings] = create_model("SeenSettings", __base__=Settings, **_fields)
SeenSettings.heading = "As for train"


@dataclass(frozen=True, kw_only=True)
class PreviewRequest:
    """A picture that was asked for. `all_bands`: the bands are to be those of the store."""

    config: Config
    chips: int
    out: Path
    all_bands: bool

    @classmethod
    def from_words(cls, words: Sequence[str], command: str) -> "PreviewRequest":
        """Read the words of `preview`.

        Raises:
            UserError: names the setting.
        """
        values = read_words(words, *cls.shown_models(), command=command)
        own = PreviewWords(**{name: value for name, value in values.items() if name in specs(PreviewWords)})
        settings = {name: value for name, value in values.items() if name in SEEN and name != "recipe"}
        settings["task"] = own.task or (3 if "trunks" in values else 4)
        settings["store"] = store_place(own.store)
        config = make_config(values.get("recipe", "default"), **settings)
        chooses = own.task or {"bands_in", "trunks"} & set(values) or config.input == "course"
        name = f"{own.store.rstrip('/')}.preview.png"
        out = own.out or Path(name.rpartition("/")[2] if is_url(own.store) else name)
        return cls(config=config, chips=own.chips, out=out, all_bands=not chooses)

    @staticmethod
    def shown_models() -> tuple[type[Settings], ...]:
        """The classes whose settings the tables show."""
        return PreviewWords, SeenSettings

    def check(self) -> None:
        """Refuse a STORE or SPLIT that is not there, and an OUT that cannot be written."""
        store, split = self.config.store, self.config.split
        if not is_url(store) and not (Path(store).exists() or partial_path(Path(store)).exists()):
            raise UserError(f"STORE={store}: expected a store, found nothing. `make zarr` makes one.")
        if split.endswith(".csv") and not Path(split).is_file():
            raise UserError(f"SPLIT={split}: expected a CSV file, found nothing.")
        if self.out.suffix.lower() != ".png" or self.out.is_dir() or not self.out.parent.is_dir():
            raise UserError(f"OUT={self.out}: expected a file NAME.png in a folder that exists.")


def with_all_bands(config: Config, bands: tuple[str, ...]) -> Config:
    """The configuration whose network sees all bands of the store; TASK alone, where that is enough."""
    if not config.bands_rgb:
        if set(bands) == {*COLOURS}:
            return config.replace(task=1)
        if set(bands) == {*COLOURS, "nir"}:
            return config.replace(task=4)
    return config.replace(task=4, bands_in=",".join(bands))


def preview(request: PreviewRequest) -> int:
    """Draw the first train batch as the network sees it."""
    from preprocess.zarr_store import open_store
    from train.early_checks import open_checked

    config = request.config
    if request.all_bands:
        config = with_all_bands(config, open_store(config.store).layout.bands)
    opened = open_checked(config)  # before torch loads
    from analysis.preview import preview as draw

    draw(config, opened, chips=request.chips, out=request.out)
    return 0
