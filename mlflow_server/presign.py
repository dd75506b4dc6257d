"""Signed addresses by which files go straight to and from the S3 server: which host they name.

The host is part of what is signed, so no address can be moved to another host afterwards. The
server itself goes on talking to MLFLOW_S3_ENDPOINT_URL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow.entities import FileInfo
from mlflow.entities.multipart_upload import CreateMultipartUploadResponse, MultipartUploadPart
from mlflow.store.artifact.artifact_repo import ArtifactRepository, MultipartUploadMixin
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository, _get_s3_client


def use_public_endpoint(endpoint: str) -> None:
    """Have all signed addresses of this process name a host that workers and browsers reach.

    Parameters
    ----------
    endpoint : such as http://gpu-head:8333. Where it is empty, addresses name the server's own S3
        host and only uploads get one: MLflow's client and its web page would follow one for a
        download wherever they are, and end with an error where that host means nothing.
    """

    class PublicStore(S3ArtifactRepository):
        """Signs for the public host, and does all else on the server's own."""

        def _get_s3_client(self) -> _Signer:
            public = _get_s3_client(s3_endpoint_url=endpoint)  # type: ignore[no-untyped-call]
            return _Signer(super()._get_s3_client(), public)  # type: ignore[no-untyped-call]

    store = PublicStore if endpoint else UploadsOnly
    _artifact_repository_registry.register("s3", store)  # type: ignore[no-untyped-call]


class _Signer:
    """An S3 client that signs with another."""

    def __init__(self, client: Any, signer: Any) -> None:
        self._client = client
        self.generate_presigned_url = signer.generate_presigned_url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class UploadsOnly(ArtifactRepository, MultipartUploadMixin):
    """Artifacts on S3, without the signed addresses for downloads that MLflow would offer."""

    def __init__(self, artifact_uri: str, *, tracking_uri: Any = None, registry_uri: Any = None):
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._s3: Any = S3ArtifactRepository(artifact_uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Upload a file."""
        self._s3.log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Upload a folder."""
        self._s3.log_artifacts(local_dir, artifact_path)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return what a folder holds."""
        found: list[FileInfo] = self._s3.list_artifacts(path)
        return found

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete a file or a folder."""
        self._s3.delete_artifacts(artifact_path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._s3._download_file(remote_file_path, local_path)

    def create_multipart_upload(
        self, local_file: str, num_parts: int = 1, artifact_path: str | None = None
    ) -> CreateMultipartUploadResponse:
        """Begin an upload in parts."""
        begun: CreateMultipartUploadResponse
        begun = self._s3.create_multipart_upload(local_file, num_parts, artifact_path)
        return begun

    def complete_multipart_upload(
        self,
        local_file: str,
        upload_id: str,
        parts: Sequence[MultipartUploadPart],
        artifact_path: str | None = None,
    ) -> None:
        """Make the parts one file."""
        self._s3.complete_multipart_upload(local_file, upload_id, parts, artifact_path)

    def abort_multipart_upload(
        self, local_file: str, upload_id: str, artifact_path: str | None = None
    ) -> None:
        """Throw the parts away."""
        self._s3.abort_multipart_upload(local_file, upload_id, artifact_path)
