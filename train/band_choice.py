"""Which bands a network is fed, from TASK, BANDS_IN, TRUNKS and BANDS_RGB.

In: the settings as text. Out: bands of the store for each trunk; the names by which the network knows them, where a
band of BANDS_RGB is called red, green or blue; or a UserError that names the setting. Imports nothing heavy.
"""

from dataclasses import dataclass
from pathlib import Path

from preprocess.band_names import COLOURS, true_colour
from preprocess.console import UserError, is_plain
from preprocess.messages import bad

TASKS = {
    1: (("red", "green", "blue"),),
    3: (("red", "green", "blue"), ("nir",)),
    4: (("red", "green", "blue", "nir"),),
}
Groups = tuple[tuple[str, ...], ...]


def split_groups(text: str) -> Groups:
    """ "a,b;c" -> (("a", "b"), ("c",)).

    Raises:
        ValueError: a name is empty, is there twice, or has a character that cannot be seen.
    """
    groups = tuple(tuple(name.strip() for name in group.split(",")) for group in text.split(";"))
    names = [name for group in groups for name in group]
    if len(set(names)) != len(names) or not all(name and is_plain(name) for name in names):
        raise ValueError("a different name for each band")
    return groups


@dataclass(frozen=True, kw_only=True)
class BandChoice:
    """The settings that choose bands."""

    task: int
    bands_in: str | None = None
    trunks: str | None = None
    bands_rgb: str | None = None

    @property
    def rgb(self) -> tuple[str, ...]:
        """The store's bands that the network calls red, green and blue; empty without BANDS_RGB."""
        return split_groups(self.bands_rgb)[0] if self.bands_rgb else ()

    @property
    def stored(self) -> Groups:
        """The store's bands for each trunk."""
        if text := self.bands_in or self.trunks:
            return split_groups(text)
        names = dict(zip(COLOURS, self.rgb, strict=False))
        return tuple(tuple(names.get(band, band) for band in group) for group in TASKS[self.task])

    @property
    def named(self) -> Groups:
        """The same by the network's names."""
        names = dict(zip(self.rgb, COLOURS, strict=False))
        return tuple(tuple(names.get(band, band) for band in group) for group in self.stored)

    @property
    def source(self) -> str:
        """The setting that the bands come from."""
        return "BANDS_IN" if self.bands_in else "TRUNKS" if self.trunks else f"TASK={self.task}"

    def check(self) -> None:
        """UserError if the settings do not fit each other."""
        if self.bands_in and self.task == 3:
            raise bad("BANDS_IN", self.bands_in, "TRUNKS=...;... with TASK=3, which joins several networks")
        if self.trunks and self.task != 3:
            raise bad("TRUNKS", self.trunks, f"TASK=3, which joins several networks; TASK={self.task} is one network")
        used = [band for group in self.stored for band in group]
        if self.rgb and not set(self.rgb) & set(used):
            raise UserError(f"BANDS_RGB={self.bands_rgb} has no effect: {self.source} has none of them. Leave it out.")
        names = [band for group in self.named for band in group]
        if twice := sorted({band for band in names if names.count(band) > 1}):
            raise UserError(
                f"BANDS_RGB={self.bands_rgb}: two bands would be called {twice[0]}, since the store also has a band "
                "of this name. Leave one of them out."
            )

    def check_stored(self, bands: tuple[str, ...], where: Path | str) -> None:
        """UserError if the chips, with these bands, lack one that is needed."""
        expected = [band for group in self.stored for band in group]
        if not (missing := [band for band in expected if band not in bands]):
            return
        found = f"found {', '.join(bands)} in {where} ({', '.join(missing)} is missing)"
        if self.source.startswith("TASK") and not self.rgb:
            raise UserError(
                f"{self.source}: expected the bands {', '.join(expected)}, {found}. {self._offer(bands, missing)}"
            )
        word = self.source if self.source in ("BANDS_IN", "TRUNKS") else "BANDS_RGB"
        if word == "BANDS_RGB" and missing == ["nir"]:
            raise UserError(
                f"{self.source}: expected the bands {', '.join(expected)}, {found}. {self._offer(bands, missing)}"
            )
        raise UserError(f"{word}={getattr(self, word.lower())}: expected bands of the chips, {found}.")

    def _offer(self, bands: tuple[str, ...], missing: list[str]) -> str:
        """What to do about missing bands, with the names that are there."""
        colours = true_colour(bands) or (bands[:3] if len(bands) >= 3 else ())
        ways = []
        if set(missing) <= set(COLOURS) and colours:
            ways.append(f"Say which bands are red, green and blue (such as BANDS_RGB={','.join(colours)})")
        verb = "choose" if ways else "Choose"
        if self.task == 3:
            rest = [band for band in bands if band not in colours] or bands[-1:]
            ways.append(f'{verb} the bands of each network (such as TRUNKS="{",".join(colours)};{",".join(rest)}")')
        else:
            ways.append(f"{verb} the bands of the network (such as BANDS_IN={','.join(bands[:6])})")
        ways.append("name the bands at conversion (BANDS=blue,green,red,nir)")
        return f"{', or '.join(ways)}."
