"""The store while it is converted into a bucket, its plan, and which of its shards are done.

In: a `Plan`, the address of the store. Out: the objects below NAME.partial, the numbers of the shards that are left,
and in the end the complete store. Does for a bucket what `partial_store` does for a folder. NAME.partial has

    plan.json   the settings that must be equal to resume; made with If-None-Match
    plan.npz    the plan for worker processes, see `plan_file`
    progress/   N.npz for each finished shard

There are no locks. A second conversion with another plan is refused. One with the same plan joins: it writes the same
bytes, and whoever is done first completes the store. The store's zarr.json is the commit: it is written last, with
If-None-Match, and until then there is none. Then NAME.partial is removed. Leaves requests to `remote`.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from preprocess import zarr_store
from preprocess.addresses import Address
from preprocess.console import UserError, say
from preprocess.files import partial_path, shard_key
from preprocess.plan import Plan
from preprocess.plan_file import PLAN, WorkPlan, parse_plan
from preprocess.progress import differences, progress_name
from preprocess.read_ahead import read_ahead
from preprocess.remote import MissingObjectError, Objects

REQUESTS = 64  # for the progress of all shards, and for the small arrays, at the same time
SETTINGS = "plan.json"


class PartialBucket:
    """NAME.partial beside a store in a bucket."""

    def __init__(self, store: Address) -> None:
        self.store, self.root = store, partial_path(store)
        self._store, self._partial = Objects(str(store)), Objects(str(self.root))

    def is_complete(self) -> bool:
        """Whether the store is complete."""
        return self._store.size("zarr.json") is not None

    def held(self, *, alone: bool) -> AbstractContextManager[None]:
        """No lock reaches other hosts."""
        return nullcontext()

    def prepare(self, plan: Plan, *, alone: bool, others: bool) -> WorkPlan:
        """Start a store, or check that the existing objects can be resumed.

        `alone`: source files may have changed since the start: their shards are converted again.

        Raises:
            UserError: it was started with other settings, or other objects are there.
        """
        self._check_settings(plan)
        work = plan.work()
        data = work.encode()
        if not self._partial.write_new(PLAN, data):
            before = self._partial.read(PLAN)
            if parse_plan(before, self.root / PLAN).digest != work.digest:
                if not alone or not self._partial.replace(PLAN, before, data):
                    raise UserError(
                        f"{self.root}: another conversion or share was started with other files. Stop it, and run the "
                        "same command without SHARDS again, which converts the changed ones."
                    )
        return work

    def _check_settings(self, plan: Plan) -> None:
        settings = plan.settings()
        data = json.dumps(settings, indent=1).encode()
        if self._partial.size(SETTINGS) is None:
            if (other := next(self._store.list(), None)) is not None:
                raise UserError(
                    f"{self.store}: expected nothing below this address, found {other.key}. Choose another STORE, or "
                    "remove what is there."
                )
            self._partial.write_new(SETTINGS, data)
            if self._partial.create(SETTINGS, data):  # it exists, so this must be refused
                say(
                    f"{self.store}: the server does not support conditional PUT (If-None-Match). Start only one "
                    "conversion into this store: a second one would not be noticed."
                )
        try:
            before: dict[str, str] = json.loads(self._partial.read(SETTINGS))
        except ValueError as error:
            raise UserError(f"{self.root}/{SETTINGS}: damaged. {self._remedy()}") from error
        if found := differences(before, settings):
            raise UserError(f"{self.root}: started with other settings ({found}). Use those again. {self._remedy()}")

    def _remedy(self) -> str:
        return f"To start again, stop that conversion and remove all objects below {self.root} and {self.store}."

    def progress(self, shards: range) -> Iterator[tuple[bytes | None, int]]:
        """Of each shard its progress (None: not done) and its size: two listings, and a request per shard that is done,
        many at the same time."""
        done = {each.key for each in self._partial.list("progress/")}
        sizes = {each.key: each.size for each in self._store.list("tiles/c/")}

        def read(shard: int) -> tuple[bytes | None, int]:
            name, size = progress_name(shard), sizes.get(shard_key(shard))
            if name not in done or size is None:
                return None, 0
            try:
                return self._partial.read(name), size
            except MissingObjectError:
                return None, 0

        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="canopy-progress") as pool:
            yield from read_ahead(pool, read, shards, REQUESTS)

    def num_done(self) -> int:
        """Shards with a progress object."""
        return sum(1 for _ in self._partial.list("progress/"))

    def flush(self, shard: int) -> None:
        """Nothing to do: an object that is written stays."""

    def complete(self, plan: Plan, arrays: dict[str, Any], source: dict[str, Any]) -> None:
        """Write the small arrays, check them as `open_store` does, and commit.

        Raises:
            UserError: another conversion has completed another store there.
        """
        files = zarr_store.small_files(plan.layout, plan.classes, plan.num_csv_rows, arrays, source)
        commit = files.pop("zarr.json")
        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="canopy-arrays") as pool:
            list(pool.map(self._store.write, files.keys(), files.values()))

        def read(key: str, limit: int) -> bytes:
            return commit if key == "zarr.json" else self._store.read(key, limit)

        zarr_store.open_store(self.store, read)
        if not self._store.write_new("zarr.json", commit):
            raise UserError(
                f"{self.store}: another conversion has completed this store with other chips. Choose another STORE."
            )
        self.remove()

    def remove(self) -> None:
        """Remove NAME.partial; the settings last, so that a half-removed one still says what it is."""
        keys = [each.key for each in self._partial.list()]
        self._partial.remove(key for key in keys if key != SETTINGS)
        self._partial.remove(key for key in keys if key == SETTINGS)
