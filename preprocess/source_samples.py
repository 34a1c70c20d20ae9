"""Compare a few source files with what was converted from them: files of equal size and time can have other pixels.

In: a plan, and the checksums of chips that are done. Out: nothing, or `UserError`. Files of archives and images of
containers often share one time, and uncompressed chips of one shape share their size, so another DATA with the same
names would be taken for the same files. Files in object storage are compared by their ETags, which tell the content.
"""

from collections.abc import Iterable

from preprocess.addresses import Location
from preprocess.console import UserError
from preprocess.plan_file import WorkPlan
from preprocess.shard import pixel_checksum
from preprocess.tiff_page import ChipError
from preprocess.write import one_chip, read_chips


def check_samples(store: Location, root: Location, work: WorkPlan, checksums: Iterable[tuple[int, int]]) -> None:
    """Read chips again. `checksums`: (chip, checksum of its pixels in the store).

    Raises:
        UserError: a file has other pixels than the store.
    """
    if work.etags is not None:
        return
    for chip, checksum in checksums:
        shard, index = divmod(chip, work.layout.shard_tiles)
        task = one_chip(work.task(root, shard), index)
        try:
            (now,) = [pixel_checksum(values) for values in read_chips(task)]
        except ChipError:  # it cannot be read now; that is no reason to doubt what was converted
            continue
        if now != checksum:
            raise UserError(
                f"{store}: {task.where(0)} has the size and time of the file that was converted, but other pixels. "
                "Give the DATA of that conversion, or choose another STORE, or remove it to convert again."
            )
