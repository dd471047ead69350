"""What can go wrong between us and the object store.

StoreError
├── BucketNotFound
├── ObjectNotFound
├── AccessDenied
├── InvalidCredentials
├── CredentialsMissing
├── UntrustedCertificate
├── StorageMisconfigured
├── ArtifactCorrupt
└── StorageUnavailable   (the only one that is worth trying again)
"""

from typing import ClassVar


class StoreError(Exception):
    """Says what is wrong and where (`message`), what to do (`advice`), and names it (`reason`)."""

    reason: ClassVar[str] = "StorageError"
    transient: ClassVar[bool] = False

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(f"{message}. {advice}")
        self.message = message
        self.advice = advice


class BucketNotFound(StoreError):
    reason = "BucketNotFound"


class ObjectNotFound(StoreError):
    reason = "ObjectNotFound"


class AccessDenied(StoreError):
    reason = "AccessDenied"


class InvalidCredentials(StoreError):
    reason = "InvalidCredentials"


class CredentialsMissing(StoreError):
    reason = "CredentialsMissing"


class UntrustedCertificate(StoreError):
    reason = "UntrustedCertificate"


class StorageMisconfigured(StoreError):
    reason = "StorageMisconfigured"


class ArtifactCorrupt(StoreError):
    reason = "ArtifactCorrupt"


class StorageUnavailable(StoreError):
    reason = "StorageUnavailable"
    transient = True
