"""Datasets in S3, through Arrow's own client and a server on localhost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import DataError
from tests.data.object_store import BUCKET, serve

COLUMNS = ("obs_agent_10", "action_agent_2", "truncated")


@pytest.fixture
def address(dataset_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anyone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with serve(dataset_path.parent) as host:
        yield host


def uri(address: str, path: str) -> str:
    return f"s3://{BUCKET}/{path}?scheme=http&endpoint_override={address}&region=us-east-1"


def rows(dataset: OfflineDataset) -> np.ndarray:
    return np.concatenate([block.rows for block in dataset.blocks(COLUMNS, use_ray=False)])


def test_a_bucket_holds_the_same_dataset_as_the_directory(address: str, dataset_path: Path) -> None:
    local = OfflineDataset.open(str(dataset_path))
    remote = OfflineDataset.open(uri(address, dataset_path.name))
    assert remote.fingerprint == local.fingerprint
    assert remote.num_transitions == local.num_transitions
    np.testing.assert_array_equal(rows(remote), rows(local))


def test_a_missing_folder_of_a_bucket_is_named(address: str) -> None:
    with pytest.raises(DataError, match="nowhere.*does not exist"):
        OfflineDataset.open(uri(address, "nowhere"))


def test_a_glob_in_a_bucket_keeps_the_options_of_the_uri(address: str, dataset_path: Path) -> None:
    remote = OfflineDataset.open(uri(address, f"{dataset_path.name}/*.parquet"))
    local = OfflineDataset.open(f"{dataset_path}/*.parquet")
    assert [Path(file).name for file in remote.files] == [Path(file).name for file in local.files]
    np.testing.assert_array_equal(rows(remote), rows(local))
