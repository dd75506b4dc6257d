"""The bucket of all artifacts: made once, with a rule of its own that clears broken uploads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from galaxy_mlflow.errors import ServerError
from mlflow_server.objects import s3_client
from mlflow_server.settings import Settings

Rule = dict[str, Any]
BROKEN_UPLOADS: Rule = {
    "ID": "clear-broken-uploads",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
}


def make_bucket(settings: Settings) -> None:
    """Make the bucket where there is none; then write, read and delete an object in it.

    Raises
    ------
    ServerError
        The S3 server cannot be reached, refuses, or does not keep what it is given.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    client, name = s3_client(settings), settings.bucket
    try:
        _make(client, name)
        _try_out(client, name)
        rule = _clear_broken_uploads(client, name)
    except (BotoCoreError, ClientError) as error:
        place = settings.s3_endpoint or "Amazon S3"
        raise ServerError(f"bucket {name!r} on {place} cannot be used: {error}") from None
    print(f"bucket: {name} is ready; {rule}")  # noqa: T201


def _make(client: Any, name: str) -> None:
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise
        region = client.meta.region_name
        elsewhere = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        client.create_bucket(Bucket=name, **(elsewhere if region != "us-east-1" else {}))


def _try_out(client: Any, name: str) -> None:
    """Find out now, rather than at the first checkpoint, that objects are kept."""
    key, content = "probe", b"galaxy-mlflow"
    client.put_object(Bucket=name, Key=key, Body=content)
    found = client.get_object(Bucket=name, Key=key)["Body"].read()
    client.delete_object(Bucket=name, Key=key)
    if found != content:
        raise ServerError(f"bucket {name!r}: an object came back other than it was written")


def _clear_broken_uploads(client: Any, name: str) -> str:
    from botocore.exceptions import ClientError

    try:
        found = _rules(client, name)
        if (rules := with_ours(found)) != found:
            client.put_bucket_lifecycle_configuration(
                Bucket=name, LifecycleConfiguration={"Rules": rules}
            )
        kept = any("AbortIncompleteMultipartUpload" in rule for rule in _rules(client, name))
    except ClientError:
        kept = False
    if kept:
        return "broken uploads are cleared after a day"
    return "it keeps no lifecycle rules: galaxy-mlflow storage --sweep clears broken uploads"


def with_ours(rules: Sequence[Rule]) -> list[Rule]:
    """Return a bucket's rules with ours among them; an admin's own stay as they are."""
    return [*(rule for rule in rules if rule.get("ID") != BROKEN_UPLOADS["ID"]), BROKEN_UPLOADS]


def _rules(client: Any, name: str) -> list[Rule]:
    from botocore.exceptions import ClientError

    try:
        rules: list[Rule] = client.get_bucket_lifecycle_configuration(Bucket=name).get("Rules", [])
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        return []
    return rules
