"""The errors of stores and artifacts. Their reasons are those of tuneyard_api.reasons.

StoreError
├── BucketNotFound
├── ObjectNotFound
├── AccessDenied
├── InvalidCredentials
├── CredentialsMissing
├── UntrustedCertificate
├── StorageMisconfigured
├── ArtifactCorrupt
└── StorageUnavailable   (the only error that is worth a retry)
"""

from typing import ClassVar

from tuneyard_api import reasons


class StoreError(Exception):
    """An error with a reason, a message (what is wrong, and where) and advice (what to do)."""

    reason: ClassVar[str] = reasons.STORAGE_ERROR
    transient: ClassVar[bool] = False

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(f"{message}. {advice}")
        self.message = message
        self.advice = advice


class BucketNotFound(StoreError):
    reason = reasons.BUCKET_NOT_FOUND


class ObjectNotFound(StoreError):
    reason = reasons.OBJECT_NOT_FOUND


class AccessDenied(StoreError):
    reason = reasons.ACCESS_DENIED


class InvalidCredentials(StoreError):
    reason = reasons.INVALID_CREDENTIALS


class CredentialsMissing(StoreError):
    reason = reasons.CREDENTIALS_MISSING


class UntrustedCertificate(StoreError):
    reason = reasons.UNTRUSTED_CERTIFICATE


class StorageMisconfigured(StoreError):
    reason = reasons.STORAGE_MISCONFIGURED


class ArtifactCorrupt(StoreError):
    reason = reasons.ARTIFACT_CORRUPT


class StorageUnavailable(StoreError):
    reason = reasons.STORAGE_UNAVAILABLE
    transient = True
