"""Job caches: values (bytes) by key (text) that the tasks of one job share.

Names and behaviour are those of `tilebox.workflows.cache`, with these deliberate differences:

- Keys cannot leave their cache. Absolute keys and ".." raise ArgumentError; they used to reach the values of
  other jobs and, in LocalFileSystemCache, any file.
- LocalFileSystemCache replaces files in one step, so that no reader gets part of a value.
- InMemoryCache answers `in` for "a/b" as for "b" in group("a"). A group whose name a value has refuses
  writes; they used to vanish.
- What is not bytes-like raises TypeError in every cache; text used to be stored unreadably, or taken for the
  name of a file to upload. bytearray and memoryview are copied in every cache.
- ObstoreCache iterates in the order of keys, and looking below a value finds nothing, even
  in a local store.
"""

from __future__ import annotations

import importlib
import io
import os
import threading
from abc import ABC, abstractmethod
from contextlib import closing
from copy import copy
from datetime import timedelta
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeAlias, TypeVar
from uuid import uuid4

from tilebox_local.errors import ArgumentError, TileboxLocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from obstore.store import ObjectStore

__all__ = [
    "AmazonS3Cache",
    "AzureBlobCache",
    "GoogleStorageCache",
    "InMemoryCache",
    "JobCache",
    "LocalFileSystemCache",
    "NoCache",
    "NoCacheError",
    "ObstoreCache",
]

_NO_CACHE = "No cache configured! Specify a cache using the cache argument when instantiating the task runner."
_TEMPORARY = ".tilebox-local-"  # files being written; hidden from iteration
_NO_PREFIX = PurePosixPath()
_AZURE_SECRETS = ("ACCOUNT_KEY", "ACCESS_KEY", "MASTER_KEY", "SAS_KEY", "SAS_TOKEN")
_BucketT = TypeVar("_BucketT")


class JobCache(ABC):
    """Base of all caches. A runner gives the tasks of a job the group named by the job's id.

    A "/" in a key separates groups: `cache["a/b"]` is `cache.group("a")["b"]`. Single operations must be
    thread-safe, since tasks run concurrently; several operations together are not atomic.
    """

    @abstractmethod
    def __contains__(self, key: str) -> bool:
        """Whether there is a value."""

    @abstractmethod
    def __setitem__(self, key: str, value: bytes) -> None:
        """Store a value; the last write wins."""

    @abstractmethod
    def __getitem__(self, key: str) -> bytes:
        """The value. Raises KeyError if there is none."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Keys of the values directly in this group, without those of groups in it."""

    @abstractmethod
    def group(self, key: str) -> JobCache:
        """The cache of all keys that begin with `key` and "/"; it need not exist yet."""

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Pairs of key and value, in the order of iteration; reads each value when its turn comes."""
        for key in self:
            yield key, self[key]


class NoCacheError(TileboxLocalError, ValueError):
    """A task used the cache of a runner that has none."""

    code = "no_cache"


class NoCache(JobCache):
    """What a runner without a cache gives its tasks: every use raises NoCacheError, except for `group`."""

    def __contains__(self, key: str) -> bool:
        raise NoCacheError(f"{key} is not cached: {_NO_CACHE}")

    def __setitem__(self, key: str, value: bytes) -> None:
        raise NoCacheError(f"Cannot save {key} with value of {len(value)} bytes: {_NO_CACHE}")

    def __getitem__(self, key: str) -> bytes:
        raise NoCacheError(f"{key} is not cached: {_NO_CACHE}")

    def __iter__(self) -> Iterator[str]:
        raise NoCacheError(_NO_CACHE)

    def group(self, key: str) -> Self:  # noqa: ARG002
        """This same cache, so that only its use fails."""
        return self


_Tree: TypeAlias = "dict[str, bytes | _Tree]"


class InMemoryCache(JobCache):
    """Cache in this process's memory, for tests and development: not shared with other processes, not kept.

    Unlike elsewhere, `cache["a/b"] = v` raises KeyError until `group("a")` has been called, and a value
    stored under a group's name replaces the group and everything in it. A group's name counts as `in`.
    Iteration is in the order of first insertion. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._root: _Tree = {}
        self._path: tuple[str, ...] = ()  # groups are views of one tree

    def __contains__(self, key: str) -> bool:
        *groups, name = key.split("/")
        with self._lock:
            tree = self._tree(groups)
            return tree is not None and name in tree

    def __setitem__(self, key: str, value: bytes) -> None:
        *groups, name = key.split("/")
        stored = _as_bytes(value)
        with self._lock:
            tree = self._tree(groups)
            if tree is None:
                raise KeyError(f"{'/'.join((*self._path, *groups))} is not cached!")
            tree[name] = stored

    def __getitem__(self, key: str) -> bytes:
        *groups, name = key.split("/")
        with self._lock:
            tree = self._tree(groups)
            value = None if tree is None else tree.get(name)
        if not isinstance(value, bytes):
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            tree = self._tree(()) or {}
            return iter([name for name, value in tree.items() if isinstance(value, bytes)])

    def group(self, key: str) -> Self:
        """The group, made if it is missing. If a value has its name, its writes raise KeyError."""
        group = copy(self)
        group._path = (*self._path, *key.split("/"))
        with self._lock:
            tree = self._root
            for name in group._path:
                below = tree.setdefault(name, {})
                if isinstance(below, bytes):
                    break
                tree = below
        return group

    def _tree(self, groups: list[str] | tuple[str, ...]) -> _Tree | None:
        tree = self._root
        for name in (*self._path, *groups):
            below = tree.get(name)
            if below is None or isinstance(below, bytes):
                return None
            tree = below
        return tree


class LocalFileSystemCache(JobCache):
    """Cache in a directory: groups are directories, values are files. For runners that share a file system.

    A value is written to a file named ".tilebox-local-..." beside it, then renamed: threads and processes
    read the old or the new value, never a part. A killed writer leaves such a file, which iteration hides.
    Nothing is synced: a power cut can lose the values of the last seconds. Symbolic links are followed.
    A group's name counts as `in`. Iteration is in the order of keys.

    Args:
        root: The directory, made on the first write. A relative one is looked up from the working directory.
    """

    def __init__(self, root: Path | str = Path("cache")) -> None:
        self.root = Path(root)

    def __contains__(self, key: str) -> bool:
        return (self.root / _inside(key)).exists()

    def __setitem__(self, key: str, value: bytes) -> None:
        """Store a value.

        Raises:
            ArgumentError: If the key is empty, absolute, reserved or contains "..".
            TypeError: If the value is not bytes-like.
            OSError: If the file cannot be written; IsADirectoryError if the key names a group,
                FileExistsError or NotADirectoryError if one of its groups is a value.
        """
        file, content = self.root / _inside(key, for_value=True), _as_bytes(value)
        file.parent.mkdir(exist_ok=True, parents=True)
        temporary = file.with_name(f"{_TEMPORARY}{uuid4().hex}")
        try:
            # Not tempfile.mkstemp: its mode 0600 would lock out other users of a shared directory.
            with temporary.open("xb") as stream:
                stream.write(content)
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def __getitem__(self, key: str) -> bytes:
        try:
            return (self.root / _inside(key)).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            _raise_missing(key)

    def __iter__(self) -> Iterator[str]:
        try:
            with os.scandir(self.root) as entries:
                names = [entry.name for entry in entries if entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from sorted(name for name in names if not name.startswith(_TEMPORARY))

    def group(self, key: str) -> Self:
        """The subdirectory's cache. Raises ArgumentError if the key is absolute or contains ".."."""
        group = copy(self)
        group.root = self.root / _inside(key)
        return group


class ObstoreCache(JobCache):
    """Cache in an object store of the obstore package: S3, GCS, Azure, a local directory or memory.

    A group's name does not count as `in`. Iteration is in the order of keys. Each operation waits for a
    request to the store. Thread-safe, as the stores are.

    Args:
        store: The store, with the caller's connection and credentials.
        prefix: Path in the store under which the keys are; "." for none.

    Raises:
        ImportError: If obstore is not installed.
    """

    def __init__(self, store: ObjectStore, prefix: str | PurePosixPath = _NO_PREFIX) -> None:
        stores = _load("obstore.store", type(self), "tilebox-local[obstore]")
        self._use(store, prefix, on_disk=isinstance(store, stores.LocalStore))

    def _use(self, store: Any, prefix: str | PurePosixPath, *, on_disk: bool = False) -> None:
        self.store = store
        self.prefix = PurePosixPath(prefix)
        self._on_disk = on_disk

    def __contains__(self, key: str) -> bool:
        try:
            self._request(self.store.head, self._path(key))
        except FileNotFoundError:
            return False
        return True

    def __setitem__(self, key: str, value: bytes) -> None:
        """Store a value; other processes see it on return.

        Raises:
            ArgumentError: If the key is empty, absolute, reserved or contains "..".
            TypeError: If the value is not bytes-like.
            obstore.exceptions.BaseError: If the store refuses or fails.
        """
        self.store.put(str(self.prefix / _inside(key, for_value=True)), _as_bytes(value))

    def __getitem__(self, key: str) -> bytes:
        try:
            return bytes(self._request(self.store.get, self._path(key)).bytes())
        except FileNotFoundError:
            _raise_missing(key)

    def __delitem__(self, key: str) -> None:
        """Remove a value. Raises KeyError if there is none and the store says so; memory and S3 do not."""
        try:
            self._request(self.store.delete, self._path(key))
        except FileNotFoundError:
            _raise_missing(key)

    def __iter__(self) -> Iterator[str]:
        try:
            listing = self._request(self.store.list_with_delimiter, self.prefix)
        except FileNotFoundError:
            return
        yield from sorted(PurePosixPath(entry["path"]).name for entry in listing["objects"])

    def group(self, key: str) -> Self:
        """The cache of the longer prefix. Raises ArgumentError if the key is absolute or contains ".."."""
        group = copy(self)
        group.prefix = self.prefix / _inside(key)
        return group

    def _path(self, key: str) -> PurePosixPath:
        relative = _inside(key)
        if not relative.name:
            raise FileNotFoundError(f"The key {key!r} names no value.")
        return self.prefix / relative

    def _request(self, operation: Callable[[str], Any], path: PurePosixPath) -> Any:
        """The store's answer. Raises FileNotFoundError also where a value stands in the way of the path."""
        try:
            return operation("" if path == _NO_PREFIX else str(path))
        except Exception as error:
            if isinstance(error, FileNotFoundError) or not self._on_disk:
                raise
            # A local store reports a file in place of a directory as any other failure.
            if any(self._holds(parent) for parent in reversed(path.parents[:-1])):
                raise FileNotFoundError(str(path)) from error
            raise

    def _holds(self, path: PurePosixPath) -> bool:
        try:
            self.store.head(str(path))
        except FileNotFoundError:
            return False
        return True


class GoogleStorageCache(ObstoreCache, Generic[_BucketT]):
    """Cache in Google Cloud Storage.

    Args:
        bucket: A bucket's name, used with Google's default credentials; or a google.cloud.storage Bucket,
            used as it is and without obstore.
        prefix: Path in the bucket under which the keys are.

    Raises:
        ImportError: If `bucket` is a name and obstore or google-auth is not installed.
        google.auth.exceptions.DefaultCredentialsError: If `bucket` is a name and there are no credentials.
    """

    def __init__(self, bucket: _BucketT, prefix: str | PurePosixPath = "jobs") -> None:
        self.bucket = bucket
        if not isinstance(bucket, str):
            self._use(_GoogleBucketStore(bucket), prefix)
            return
        stores = _load("obstore.store", type(self), "tilebox-local[obstore]")
        google_auth = _load("google.auth", type(self), "google-auth")
        provider = _load("obstore.auth.google", type(self), "google-auth").GoogleCredentialProvider
        scope = "https://www.googleapis.com/auth/devstorage.read_write"
        credentials, _ = google_auth.default(scopes=[scope])
        super().__init__(stores.GCSStore(bucket, credential_provider=provider(credentials=credentials)), prefix)


class _GoogleBucketStore:
    """A Bucket of Google's own package behind the methods of an obstore store that ObstoreCache uses."""

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket

    def head(self, path: str) -> None:
        if not self._bucket.blob(path).exists():
            raise FileNotFoundError(path)

    def get(self, path: str) -> SimpleNamespace:
        content = self._if_found(self._bucket.blob(path).download_as_bytes)
        return SimpleNamespace(bytes=lambda: content)

    def put(self, path: str, value: bytes) -> None:
        self._bucket.blob(path).upload_from_file(io.BytesIO(value))

    def delete(self, path: str) -> None:
        self._if_found(self._bucket.blob(path).delete)

    def list_with_delimiter(self, path: str) -> dict[str, list[dict[str, str]]]:
        blobs = self._bucket.list_blobs(prefix=f"{path}/" if path else "", delimiter="/")
        # Google's console marks empty folders with objects whose names end in a slash.
        return {"objects": [{"path": blob.name} for blob in blobs if not blob.name.endswith("/")]}

    @staticmethod
    def _if_found(operation: Callable[[], Any]) -> Any:
        from google.api_core.exceptions import NotFound

        try:
            return operation()
        except NotFound as error:
            raise FileNotFoundError(str(error)) from error


class AmazonS3Cache(ObstoreCache):
    """Cache in Amazon S3, with the credentials of boto3's default session.

    Args:
        bucket: The bucket's name.
        prefix: Path in the bucket under which the keys are.
        region: The bucket's region; None asks S3 for it.

    Raises:
        ImportError: If obstore or boto3 is not installed.
        ArgumentError: If S3 does not tell the region.
    """

    def __init__(self, bucket: str, prefix: str | PurePosixPath = "jobs", *, region: str | None = None) -> None:
        stores = _load("obstore.store", type(self), "tilebox-local[obstore]")
        boto3 = _load("boto3", type(self), "boto3")
        provider = _load("obstore.auth.boto3", type(self), "boto3").Boto3CredentialProvider
        session = boto3.DEFAULT_SESSION or boto3.Session()
        credentials = provider(session=session, ttl=timedelta(0))  # boto3 knows when they expire
        region = region or _region_of_bucket(session, bucket)
        super().__init__(stores.S3Store(bucket, region=region, credential_provider=credentials), prefix)


def _region_of_bucket(session: Any, bucket: str) -> str:
    client_error = _load("botocore.exceptions", AmazonS3Cache, "boto3").ClientError
    with closing(session.client("s3")) as client:
        try:
            response = client.head_bucket(Bucket=bucket)
        except client_error as error:
            # S3 names the region even when it redirects or denies access.
            region = _region_of_answer(error.response)
            if region is None:
                raise
        else:
            region = response.get("BucketRegion") or _region_of_answer(response)
    if not region:
        raise ArgumentError(f"S3 did not return a region for bucket {bucket!r}")
    return region


def _region_of_answer(response: Any) -> str | None:
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region: str | None = headers.get("x-amz-bucket-region")
    return region or None


class AzureBlobCache(ObstoreCache):
    """Cache in Azure Blob Storage.

    Credentials are an account key or SAS token from the environment (AZURE_STORAGE_ACCOUNT_KEY, _ACCESS_KEY,
    _MASTER_KEY, _SAS_KEY, _SAS_TOKEN), else those that Azure Identity finds.

    Args:
        account_name: The storage account's name.
        container: The container's name.
        prefix: Path in the container under which the keys are.

    Raises:
        ImportError: If obstore is not installed, or azure-identity where it is needed.
    """

    def __init__(self, account_name: str, container: str, prefix: str | PurePosixPath = "jobs") -> None:
        stores = _load("obstore.store", type(self), "tilebox-local[obstore]")
        options: dict[str, Any] = {"account_name": account_name}
        if not any(f"AZURE_STORAGE_{name}" in os.environ for name in _AZURE_SECRETS):
            azure = _load("obstore.auth.azure", type(self), "azure-identity")
            options["credential_provider"] = azure.AzureCredentialProvider()
        super().__init__(stores.AzureStore(container, **options), prefix)


def _inside(key: str, *, for_value: bool = False) -> PurePosixPath:
    """The key as a relative path that stays in its cache and, `for_value`, names something."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        raise ArgumentError(f"The cache key {key!r} leaves its cache: it is absolute or contains '..'.")
    if for_value and (not path.name or path.name.startswith(_TEMPORARY)):
        raise ArgumentError(f"The cache key {key!r} cannot hold a value: it is empty or reserved.")
    return path


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return bytes(memoryview(value))  # bytes(5) would be five zeros
    except TypeError:
        raise TypeError(f"A cache value must be bytes, not {type(value).__name__}.") from None


def _raise_missing(key: str) -> NoReturn:
    raise KeyError(f"{key} is not cached!") from None


def _load(module: str, needed_by: type, requirement: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise ImportError(
            f"{needed_by.__name__} needs {missing}. Install it with: pip install '{requirement}'",
            name=missing,
        ) from error
