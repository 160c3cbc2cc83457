"""boto3 against the region: a declared bucket is an S3 bucket, and a project's credentials reach that project alone."""

from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.running import RunningRegion

API = "/falaj/v1"


def s3(credentials: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=credentials["endpoint_url"],
        aws_access_key_id=credentials["access_key"],
        aws_secret_access_key=credentials["secret_key"],
        region_name=credentials["region"],
        config=Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=30),
    )


def project(region: RunningRegion, name: str) -> tuple[Any, str]:
    """A project with the bucket ``docs``, as an S3 client sees it, and the bucket's S3 name."""
    key = region.project(name, {"kind": "Bucket", "metadata": {"name": "docs"}, "spec": {}})
    bucket = region.wait_ready(f"{API}/projects/{name}/buckets/docs")
    answer = region.call("GET", f"{API}/projects/{name}/credentials", key=key)
    assert answer.status == 200, answer.data
    return s3(answer.json()), bucket["status"]["s3_bucket"]


@pytest.fixture(scope="module")
def water(region: RunningRegion) -> tuple[Any, str]:
    return project(region, "s3-water")


@pytest.fixture(scope="module")
def energy(region: RunningRegion) -> tuple[Any, str]:
    return project(region, "s3-energy")


def test_objects_are_put_read_listed_and_deleted(water: tuple[Any, str]) -> None:
    client, bucket = water
    client.put_object(Bucket=bucket, Key="a/تقرير.md", Body=b"text", ContentType="text/markdown")
    client.put_object(Bucket=bucket, Key="b.bin", Body=bytes(range(256)) * 4096)
    found = client.get_object(Bucket=bucket, Key="a/تقرير.md")
    assert (found["Body"].read(), found["ContentType"]) == (b"text", "text/markdown")
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a/تقرير.md", "b.bin"]
    assert client.get_object(Bucket=bucket, Key="b.bin", Range="bytes=1-3")["Body"].read() == b"\x01\x02\x03"
    for key in ("a/تقرير.md", "b.bin"):
        client.delete_object(Bucket=bucket, Key=key)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


def test_both_wires_see_the_same_objects(region: RunningRegion, water: tuple[Any, str]) -> None:
    client, bucket = water
    path = f"{API}/projects/s3-water/buckets/docs/objects"
    client.put_object(Bucket=bucket, Key="by-s3.md", Body=b"s3")
    assert region.call("GET", f"{path}/by-s3.md").data == b"s3"
    assert region.call("PUT", f"{path}/by-rest.md", b"rest").status == 200
    assert client.get_object(Bucket=bucket, Key="by-rest.md")["Body"].read() == b"rest"


def test_another_project_s_objects_cannot_be_reached(water: tuple[Any, str], energy: tuple[Any, str]) -> None:
    owner, bucket = water
    stranger, _ = energy
    owner.put_object(Bucket=bucket, Key="secret.md", Body=b"secret")
    attempts = [
        lambda: stranger.get_object(Bucket=bucket, Key="secret.md"),
        lambda: stranger.put_object(Bucket=bucket, Key="secret.md", Body=b"mine"),
        lambda: stranger.delete_object(Bucket=bucket, Key="secret.md"),
        lambda: stranger.list_objects_v2(Bucket=bucket),
        lambda: stranger.copy_object(
            Bucket=energy[1], Key="stolen.md", CopySource={"Bucket": bucket, "Key": "secret.md"}
        ),
    ]
    for attempt in attempts:
        with pytest.raises(ClientError) as refused:
            attempt()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] in {403, 404}
    assert owner.get_object(Bucket=bucket, Key="secret.md")["Body"].read() == b"secret"


def test_a_stranger_without_credentials_reaches_nothing(region: RunningRegion, water: tuple[Any, str]) -> None:
    _, bucket = water
    answer = region.http.request("GET", f"http://127.0.0.1:{region.s3_port}/{bucket}/secret.md")
    assert answer.status == 403
    wrong = {"endpoint_url": f"http://127.0.0.1:{region.s3_port}", "access_key": "a", "secret_key": "b"}
    with pytest.raises(ClientError):
        s3({**wrong, "region": "us-east-1"}).list_objects_v2(Bucket=bucket)


def test_buckets_are_declared_and_not_made_by_clients(water: tuple[Any, str]) -> None:
    client, _ = water
    with pytest.raises(ClientError):
        client.create_bucket(Bucket="s3-water.undeclared")
    with pytest.raises(ClientError):
        client.put_object(Bucket="s3-water.undeclared", Key="a", Body=b"a")


def test_what_falaj_keeps_for_itself_cannot_be_reached(water: tuple[Any, str]) -> None:
    client, _ = water
    for bucket in ("system.index", "system.knowledge"):
        with pytest.raises(ClientError):
            client.list_objects_v2(Bucket=bucket)
