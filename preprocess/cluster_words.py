"""The settings that say who shares the work of a command: CLUSTER and SHARDS.

Imports nothing heavy, and Dask not at all.
"""

from typing import ClassVar, Self

from pydantic import field_validator, model_validator

from preprocess.cluster_setting import check_dask, cluster_address
from preprocess.console import UserError
from preprocess.settings import Settings, setting
from preprocess.shares import shard_share


class ClusterWords(Settings):
    """The workers of a command."""

    heading: ClassVar[str] = "Several hosts"

    cluster: str | None = setting(
        None,
        "Dask workers that share the work: the address of a scheduler, its file, or local:8 for eight processes of "
        "this machine. All hosts need the same disk. Needs the extra `cluster`.",
        hint="tcp://host:8786|scheduler.json|local:8",
        default_text="worker processes of this machine (JOBS)",
    )

    @field_validator("cluster")
    @classmethod
    def _cluster_can_be_read(cls, text: str | None) -> str | None:
        if text is not None:
            cluster_address(text)
        return text

    @model_validator(mode="after")
    def _only_one_of_jobs_and_cluster(self) -> Self:
        if self.cluster is not None and "jobs" in self.model_fields_set:
            raise UserError("JOBS has no effect with CLUSTER; leave it out.")
        return self

    def check(self) -> None:
        """Refuse CLUSTER without Dask."""
        if self.cluster is not None:
            check_dask(self.cluster)


class ShareWords(ClusterWords):
    """As above, and shares without Dask."""

    shards: str | None = setting(
        None,
        "Convert one share of the shards: 2/4 is the second of four. Hosts with a common disk or bucket convert a "
        "share each, at the same time. When all are done, the same command without SHARDS completes the store.",
        hint="i/n",
        default_text="all",
    )

    @field_validator("shards")
    @classmethod
    def _share_can_be_read(cls, text: str | None) -> str | None:
        if text is not None:
            shard_share(text)
        return text

    @model_validator(mode="after")
    def _only_one_of_shards_and_cluster(self) -> Self:
        if self.cluster is not None and self.shards is not None:
            raise UserError(f"SHARDS={self.shards} has no effect with CLUSTER; leave it out.")
        return self
