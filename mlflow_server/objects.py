"""The S3 server, as the containers of the tracking server reach it, and the bucket's objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from galaxy_mlflow.errors import ServerError
from mlflow_server.settings import Settings

_DELETED_A_CALL = 1000


def s3_client(settings: Settings) -> Any:
    """Return a boto3 client for the S3 server of the settings.

    Raises
    ------
    ConfigError
        A setting is wrong, or a secret is missing.
    """
    import boto3
    from botocore.config import Config

    known = settings.s3_environment()
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=known["AWS_DEFAULT_REGION"],
        aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if settings.s3_endpoint else "auto"},
            connect_timeout=10,
            retries={"max_attempts": 5, "mode": "standard"},
        ),
    )


@dataclass(frozen=True)
class StoredObject:
    """One object: its key, its size in bytes, when it was written (aware of its time zone)."""

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Upload:
    """A multipart upload that nobody has completed; `size` counts the parts that arrived."""

    key: str
    upload_id: str
    begun: datetime
    size: int


@dataclass(frozen=True)
class Objects:
    """All objects of one bucket, through a boto3 client."""

    client: Any
    bucket: str

    @classmethod
    def of(cls, settings: Settings) -> Objects:
        """Return the bucket of the settings.

        Raises
        ------
        ConfigError
            A setting is wrong, or a secret is missing.
        """
        return cls(s3_client(settings), settings.bucket)

    def listing(self) -> Iterator[StoredObject]:
        """Yield every object in the order of keys; a key that ends in `/` marks a folder only.

        Raises
        ------
        ServerError
            The S3 server cannot be reached, or refuses.
        """
        with self.talking():
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket):
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):
                        yield StoredObject(found["Key"], found["Size"], found["LastModified"])

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is gone already is no error.

        Raises
        ------
        ServerError
            The S3 server cannot be reached, or keeps one of them.
        """
        for first in range(0, len(keys), _DELETED_A_CALL):
            doomed = [{"Key": key} for key in keys[first : first + _DELETED_A_CALL]]
            with self.talking():
                answer = self.client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": doomed, "Quiet": True}
                )
            for error in answer.get("Errors", ()):
                raise ServerError(f"bucket {self.bucket!r} keeps {error['Key']}: {error['Code']}")

    def uploads(self) -> Iterator[Upload]:
        """Yield every multipart upload that is open.

        Raises
        ------
        ServerError
            The S3 server cannot be reached, or refuses.
        """
        with self.talking():
            pages = self.client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket):
                for found in page.get("Uploads", ()):
                    key, upload_id = found["Key"], found["UploadId"]
                    size = self._arrived(key, upload_id)
                    yield Upload(key, upload_id, found["Initiated"], size)

    def abort(self, upload: Upload) -> None:
        """Give up a multipart upload, and free its parts.

        Raises
        ------
        ServerError
            The S3 server cannot be reached, or refuses.
        """
        with self.talking():
            self.client.abort_multipart_upload(
                Bucket=self.bucket, Key=upload.key, UploadId=upload.upload_id
            )

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Turn whatever goes wrong with the S3 server into one clear error."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            place = self.client.meta.endpoint_url
            raise ServerError(f"bucket {self.bucket!r} on {place}: {error}") from None

    def _arrived(self, key: str, upload_id: str) -> int:
        pages = self.client.get_paginator("list_parts")
        where = {"Bucket": self.bucket, "Key": key, "UploadId": upload_id}
        return sum(
            part["Size"] for page in pages.paginate(**where) for part in page.get("Parts", ())
        )
