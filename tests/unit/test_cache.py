"""Job caches: one contract for all kinds, what sets them apart, and the official package as oracle."""

import inspect
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from obstore.exceptions import GenericError
from obstore.store import LocalStore, MemoryStore
from tilebox.workflows import cache as official

from tilebox_local import cache as ours
from tilebox_local.errors import ArgumentError, TileboxLocalError


class NotFound(Exception):
    """Stands for google.api_core.exceptions.NotFound, which is not installed here."""


class FakeBlob:
    """One object of a FakeBucket."""

    def __init__(self, objects, name):
        self.objects, self.name = objects, name

    def exists(self):
        return self.name in self.objects

    def upload_from_file(self, stream):
        self.objects[self.name] = stream.read()

    def download_as_bytes(self):
        return self._found(self.objects.get)

    def delete(self):
        self._found(self.objects.pop)

    def _found(self, operation):
        if self.name not in self.objects:
            raise NotFound(self.name)
        return operation(self.name)


class FakeBucket:
    """What the caches use of google.cloud.storage.Bucket."""

    def __init__(self):
        self.objects = {}

    def blob(self, name):
        return FakeBlob(self.objects, name)

    def list_blobs(self, *, prefix, delimiter):
        names = [name for name in self.objects if name.startswith(prefix)]
        return [self.blob(name) for name in names if delimiter not in name.removeprefix(prefix)[:-1]]


@pytest.fixture
def google_api_core(monkeypatch):
    """Make `from google.api_core.exceptions import NotFound` work."""
    exceptions = ModuleType("google.api_core.exceptions")
    exceptions.NotFound = NotFound
    monkeypatch.setitem(sys.modules, "google.api_core", ModuleType("google.api_core"))
    monkeypatch.setitem(sys.modules, "google.api_core.exceptions", exceptions)


def local_store(path):
    path.mkdir()
    return LocalStore(path)


KINDS = {
    "memory": lambda module, path: module.InMemoryCache(),
    "directory": lambda module, path: module.LocalFileSystemCache(path / "cache"),
    "obstore-directory": lambda module, path: module.ObstoreCache(local_store(path / "store")),
    "obstore-directory-prefix": lambda module, path: module.ObstoreCache(local_store(path / "store"), "a/b"),
    "obstore-memory": lambda module, path: module.ObstoreCache(MemoryStore()),
    "obstore-memory-prefix": lambda module, path: module.ObstoreCache(MemoryStore(), "jobs"),
    "google-bucket": lambda module, path: module.GoogleStorageCache(FakeBucket()),
}


def put(cache, **values):
    for key, value in values.items():
        cache[key] = value
    return cache


@pytest.mark.usefixtures("google_api_core")
@pytest.mark.parametrize("kind", KINDS)
class TestEveryCache:
    """What holds for every kind of cache."""

    @pytest.fixture
    def cache(self, kind, tmp_path):
        return KINDS[kind](ours, tmp_path)

    def test_values_come_back(self, cache):
        """A value reads back equal, the last one written wins, and empty ones count."""
        put(cache, one=b"1", two=b"", three=bytes(range(256)))
        cache["one"] = b"newer"
        assert {key: cache[key] for key in cache} == {"one": b"newer", "two": b"", "three": bytes(range(256))}
        assert ["one" in cache, "four" in cache] == [True, False]

    def test_missing_key(self, cache):
        """Reading what is not there raises KeyError that names the key."""
        for key in ("nope", "no/such/group"):
            with pytest.raises(KeyError, match=key):
                cache[key]
            assert key not in cache

    def test_keys_with_any_characters(self, cache):
        """Keys may contain what URLs and shells treat specially."""
        keys = ["%41", ".hidden", "A", "a b#%.tif", "a:b", "q?r*[", "x~y", "ä"]
        for key in keys:
            cache[key] = key.encode()
        assert sorted(cache.items()) == sorted((key, key.encode()) for key in keys)

    def test_groups_nest(self, cache):
        """group("a/b") is group("a").group("b"), and its keys are the outer cache's keys below a/b."""
        cache.group("a").group("b")["x"] = b"1"
        cache.group("a/b")["y"] = b"2"
        assert sorted(cache.group("a/b").items()) == [("x", b"1"), ("y", b"2")]
        assert [cache["a/b/x"], cache.group("a")["b/y"]] == [b"1", b"2"]
        assert [key in cache for key in ("a/b/x", "a/b/z", "a/x", "x")] == [True, False, False, False]

    def test_iteration_leaves_out_groups(self, cache):
        """Iteration gives the direct values only, and items() pairs them with their values."""
        put(cache, b=b"1", a=b"2")
        cache.group("g")["inner"] = b"3"
        assert sorted(cache) == ["a", "b"]
        assert sorted(cache.items()) == [("a", b"2"), ("b", b"1")]

    def test_groups_are_apart(self, cache):
        """A group sees neither its parent's values nor those of a group whose name begins alike."""
        put(cache, x=b"1")
        cache.group("job")["x"] = b"2"
        cache.group("job2")["x"] = b"3"
        assert list(cache.group("job").items()) == [("x", b"2")]

    def test_missing_group_is_empty(self, cache):
        """A group that nothing was written to iterates over nothing."""
        assert list(cache.group("never/written")) == []

    def test_group_is_no_value(self, cache):
        """Reading a group's name raises KeyError."""
        cache.group("g")["x"] = b"1"
        with pytest.raises(KeyError, match="g"):
            cache["g"]

    def test_nothing_is_below_a_value(self, cache):
        """A group of a value's name is empty, and looking below a value finds nothing."""
        put(cache, v=b"1")
        assert list(cache.group("v")) == list(cache.group("v/w")) == []
        assert ["v/x" in cache, "v/w/x" in cache, "x" in cache.group("v")] == [False, False, False]
        for key in ("v/x", "v/w/x"):
            with pytest.raises(KeyError, match="v"):
                cache[key]
        assert cache["v"] == b"1"

    def test_bytes_like_values_are_copied(self, cache):
        """A bytearray or memoryview is stored as it is now; later changes do not reach the cache."""
        value = bytearray(b"12345")
        put(cache, array=value, view=memoryview(value)[1:3])
        value[:] = b"xxxxx"
        assert sorted(cache.items()) == [("array", b"12345"), ("view", b"23")]
        assert [type(value) for _, value in cache.items()] == [bytes, bytes]

    @pytest.mark.parametrize("value", [__file__, 5, None, ["a"]], ids=["str", "int", "None", "list"])
    def test_other_values_are_refused(self, cache, value):
        """What is not bytes-like raises TypeError and stores nothing, least of all the file of that name."""
        with pytest.raises(TypeError, match=rf"A cache value must be bytes, not {type(value).__name__}\."):
            cache["key"] = value
        assert list(cache) == []

    @pytest.mark.parametrize("key", ["../x", "a/../../x", "/x"])
    def test_keys_stay_inside(self, cache, key):
        """No key reaches out of its group: it raises, or finds nothing."""
        put(cache, x=b"outside")
        group = cache.group("job")
        with pytest.raises((ValueError, KeyError)):
            group[key] = b"escaped"
        with pytest.raises((ValueError, KeyError)):
            group[key]
        assert list(cache.items()) == [("x", b"outside")]

    def test_groups_keep_their_type(self, cache):
        """group() returns the same kind of cache."""
        assert type(cache.group("g")) is type(cache)


def random_steps(generator, groups, keys):
    """Steps (operation, group, key) of one small life of a cache."""
    operations = ["put", "put", "get", "in", "list"]
    return [tuple(generator.choice(choices) for choices in (operations, groups, keys)) for _ in range(12)]


def outcomes(cache, steps, ordered):
    """What each step returned, or the type of its error and, for KeyError, its text."""
    results = []
    for number, (operation, group, key) in enumerate(steps):
        try:
            target = cache.group(group) if group else cache
            if operation == "put":
                target[key] = result = b"%d" % number
            elif operation == "get":
                result = target[key]
            elif operation == "in":
                result = key in target
            else:
                result = list(target) if ordered else sorted(target)
        except KeyError as error:
            result = KeyError, str(error)
        except (OSError, TypeError, ValueError, GenericError) as error:
            result = type(error)
        results.append(result)
    return results


# Memory and obstore on disk differ on purpose where values and groups have the same names.
APART = [("", "g", "g/h", "k"), ("x", "y", "z")]
CLASHING = [("", "a", "a/b", "c"), ("a", "b", "a/b", "b/", "a/b/c")]


@pytest.mark.usefixtures("google_api_core")
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        *((kind, APART) for kind in KINDS),
        *((kind, CLASHING) for kind in ("directory", "obstore-memory", "google-bucket")),
    ],
)
def test_same_as_the_official_package(kind, names, tmp_path):
    """Random operations give the values, errors and orders that the official cache gives."""
    generator = random.Random(55)
    ordered = kind in ("memory", "directory", "obstore-memory")
    for life in range(60):
        steps = random_steps(generator, *names)
        results = []
        for module in (ours, official):
            path = tmp_path / f"{life}-{module.__name__}"
            path.mkdir()
            results.append(outcomes(KINDS[kind](module, path), steps, ordered))
        assert results[0] == results[1], steps


@pytest.mark.parametrize("name", sorted(set(ours.__all__) - {"NoCacheError"}))
def test_signatures_are_official(name):
    """Constructors take what the official ones take."""
    parameters = [inspect.signature(getattr(module, name)).parameters for module in (ours, official)]
    kinds = [
        {p.name: (p.kind, str(p.default)) for p in each.values() if not p.name.startswith("_")} for each in parameters
    ]
    assert kinds[0] == kinds[1]


class TestNoCache:
    """What a task gets when its runner has no cache."""

    def test_every_use_names_the_remedy(self):
        """Each operation raises NoCacheError with the official text; group() does not."""
        advice = "No cache configured! Specify a cache using the cache argument when instantiating the task runner."
        cache = ours.NoCache().group("job")
        uses = {
            f"k is not cached: {advice}": [lambda: "k" in cache, lambda: cache["k"]],
            f"Cannot save k with value of 3 bytes: {advice}": [lambda: put(cache, k=b"123")],
            advice: [lambda: iter(cache), lambda: list(cache.items())],
        }
        for message, operations in uses.items():
            for operation in operations:
                with pytest.raises(ours.NoCacheError) as caught:
                    operation()
                assert str(caught.value) == message

    def test_error_is_a_value_error(self):
        """The error can be caught as ValueError, as officially, and as any error of this package."""
        assert issubclass(ours.NoCacheError, ValueError)
        assert issubclass(ours.NoCacheError, TileboxLocalError)


class TestInMemoryCache:
    """What is special about memory."""

    def test_iteration_keeps_insertion_order(self):
        """Keys come in the order of their first write."""
        assert list(put(put(ours.InMemoryCache(), b=b"1", a=b"2"), b=b"3")) == ["b", "a"]

    def test_group_must_exist_for_a_long_key(self):
        """Writing below a group that group() never made raises KeyError."""
        with pytest.raises(KeyError, match="a is not cached!"):
            ours.InMemoryCache()["a/b"] = b"1"

    def test_in_agrees_with_groups(self):
        """`in` finds a grouped value by its long key, and the group by its name."""
        cache = ours.InMemoryCache()
        cache.group("a")["b"] = b"1"
        assert ["a/b" in cache, "a" in cache, "a/c" in cache] == [True, True, False]

    def test_value_replaces_group(self):
        """A value under a group's name removes the group, also for those who hold it."""
        cache = ours.InMemoryCache()
        group = put(cache.group("a"), b=b"1")
        cache["a"] = b"2"
        assert (list(cache.items()), list(group)) == ([("a", b"2")], [])

    @pytest.mark.parametrize("group", ["a", "a/b"])
    def test_group_of_a_value_refuses_writes(self, group):
        """Nothing is lost silently: writing to a group whose name a value has raises KeyError."""
        cache = put(ours.InMemoryCache(), a=b"1")
        with pytest.raises(KeyError, match=f"{group} is not cached!"):
            cache.group(group)["c"] = b"2"

    def test_threads(self):
        """Threads may write, iterate and make groups at the same time."""
        cache, start = ours.InMemoryCache(), threading.Barrier(4)

        def work(worker):
            start.wait()
            for i in range(100):
                group = cache.group(f"g{i % 7}")
                group[f"{worker}-{i}"] = b"%d" % i
                assert (f"{worker}-{i}", b"%d" % i) in list(group.items())

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert sum(len(list(cache.group(f"g{i}"))) for i in range(7)) == 400


WRITER = """
import sys
from tilebox_local.cache import LocalFileSystemCache
cache = LocalFileSystemCache(sys.argv[1]).group("job")
for i in range(150):
    cache["value"] = bytes([65 + i % 26]) * 1_000_000
"""


class TestLocalFileSystemCache:
    """What is special about directories."""

    def test_default_root(self, tmp_path, monkeypatch):
        """Without arguments values go to the directory "cache" of the working directory."""
        monkeypatch.chdir(tmp_path)
        ours.LocalFileSystemCache().group("job")["a"] = b"1"
        assert (tmp_path / "cache" / "job" / "a").read_bytes() == b"1"

    def test_iteration_is_sorted(self, tmp_path):
        """Keys come in their order, not in the directory's."""
        assert list(put(ours.LocalFileSystemCache(tmp_path), b=b"1", a=b"2", c=b"3")) == ["a", "b", "c"]

    @pytest.mark.parametrize("key", ["../x", "a/../../x", "{tmp_path}/x", ""])
    def test_escaping_keys_are_refused(self, tmp_path, key):
        """Absolute keys, ".." and the empty key raise before anything is touched."""
        cache, key = ours.LocalFileSystemCache(tmp_path / "cache"), key.format(tmp_path=tmp_path)
        (tmp_path / "x").write_bytes(b"private")
        with pytest.raises(ArgumentError, match="The cache key"):
            cache[key] = b"1"
        if key:
            for use in (lambda: cache[key], lambda: key in cache, lambda: cache.group(key)):
                with pytest.raises(ArgumentError, match="leaves its cache"):
                    use()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"private"}

    def test_failed_write_leaves_nothing(self, tmp_path):
        """A value over a group raises IsADirectoryError and leaves no temporary file."""
        cache = ours.LocalFileSystemCache(tmp_path)
        cache.group("a")["b"] = b"1"
        with pytest.raises(IsADirectoryError):
            cache["a"] = b"2"
        assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["a", "a/b"]

    def test_files_of_killed_writers_are_hidden(self, tmp_path):
        """Iteration leaves out temporary files, and no key can name one."""
        cache = put(ours.LocalFileSystemCache(tmp_path), a=b"1")
        (tmp_path / ".tilebox-local-0123").write_bytes(b"half")
        assert list(cache.items()) == [("a", b"1")]
        with pytest.raises(ArgumentError, match="reserved"):
            cache[".tilebox-local-0123"] = b"2"

    def test_readers_never_see_half_a_value(self, tmp_path):
        """While two processes overwrite one value, a third reads only whole ones."""
        cache = ours.LocalFileSystemCache(tmp_path).group("job")
        cache["value"] = b"A" * 1_000_000
        writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
        seen = set()
        while any(writer.poll() is None for writer in writers):
            value = cache["value"]
            seen.add((value[:1], value == value[:1] * 1_000_000))
        assert [writer.returncode for writer in writers] == [0, 0]
        assert {whole for _, whole in seen} == {True}
        assert len(seen) > 1
        assert list(cache) == ["value"]


class TestObstoreCache:
    """What is special about object stores."""

    def test_iteration_is_sorted(self, tmp_path):
        """Keys come in their order, also from a local store, which lists them in another."""
        cache = put(ours.ObstoreCache(LocalStore(tmp_path)), **dict.fromkeys("hgfedcba", b""))
        assert list(cache) == list("abcdefgh")

    def test_prefix(self):
        """Keys are below the prefix, and groups make it longer."""
        store = MemoryStore()
        group = ours.ObstoreCache(store, "jobs").group("a/b")
        group["x"] = b"1"
        assert str(group.prefix) == "jobs/a/b"
        assert [entry["path"] for page in store.list() for entry in page] == ["jobs/a/b/x"]

    def test_value_over_group(self, tmp_path):
        """A local store refuses a value where a group is; memory holds both."""
        cache = ours.ObstoreCache(LocalStore(tmp_path))
        cache.group("a")["b"] = b"1"
        with pytest.raises(GenericError):
            cache["a"] = b"2"
        cache = ours.ObstoreCache(MemoryStore())
        cache.group("a")["b"] = b"1"
        cache["a"] = b"2"
        assert (cache["a"], cache["a/b"]) == (b"2", b"1")

    def test_failures_of_the_store_are_not_hidden(self, tmp_path):
        """An error other than a missing value reaches the caller."""
        cache = ours.ObstoreCache(LocalStore(tmp_path))
        with pytest.raises(GenericError, match="not supported"):
            cache["name#1"]

    def test_delete(self, tmp_path):
        """Values can be removed; a missing one raises KeyError on disk and nothing in memory."""
        for store in (LocalStore(tmp_path), MemoryStore()):
            cache = put(ours.ObstoreCache(store), a=b"1", b=b"2")
            del cache["a"]
            assert list(cache) == ["b"]
        del cache["a"]
        for key in ("a", "b/c"):
            with pytest.raises(KeyError, match=f"{key} is not cached!"):
                del ours.ObstoreCache(LocalStore(tmp_path))[key]

    @pytest.mark.parametrize(
        "create",
        [
            lambda: ours.ObstoreCache(MemoryStore()),
            lambda: ours.AmazonS3Cache("bucket"),
            lambda: ours.GoogleStorageCache("bucket"),
            lambda: ours.AzureBlobCache("account", "container"),
        ],
        ids=["ObstoreCache", "AmazonS3Cache", "GoogleStorageCache", "AzureBlobCache"],
    )
    def test_without_obstore(self, create, request, monkeypatch):
        """Creating a cache without obstore says which extra to install."""
        monkeypatch.setitem(sys.modules, "obstore.store", None)
        name = request.node.callspec.id
        with pytest.raises(ImportError, match=rf"{name} needs .*pip install 'tilebox-local\[obstore\]'"):
            create()


class TestCloudCaches:
    """Constructors of the caches in clouds, without a cloud."""

    @pytest.fixture
    def s3_client(self, monkeypatch):
        """A boto3 default session whose client answers from a script."""
        session = boto3.Session(aws_access_key_id="id", aws_secret_access_key="secret", region_name="us-east-1")
        client = session.client("s3")
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
        monkeypatch.setattr(session, "client", lambda service: client)
        with Stubber(client) as stubber:
            yield stubber

    def test_s3_with_region(self, s3_client):
        """A given region is used without asking; the default prefix is "jobs"."""
        cache = ours.AmazonS3Cache("bucket", region="eu-west-3")
        assert (cache.store.config["region"], str(cache.prefix)) == ("eu-west-3", "jobs")

    def test_s3_asks_for_the_region(self, s3_client):
        """Without a region the bucket's own is asked for."""
        s3_client.add_response("head_bucket", {"BucketRegion": "eu-central-1"}, {"Bucket": "bucket"})
        cache = ours.AmazonS3Cache("bucket", "p")
        assert (cache.store.config["region"], str(cache.prefix)) == ("eu-central-1", "p")

    def test_s3_region_of_a_refusal(self, s3_client):
        """A refused request still tells the region."""
        headers = {"HTTPHeaders": {"x-amz-bucket-region": "eu-north-1"}}
        s3_client.add_client_error("head_bucket", "403", http_status_code=403, response_meta=headers)
        assert ours.AmazonS3Cache("bucket").store.config["region"] == "eu-north-1"

    def test_s3_without_any_region(self, s3_client):
        """An error without a region is raised; an answer without one is an ArgumentError."""
        s3_client.add_client_error("head_bucket", "404", http_status_code=404)
        with pytest.raises(ClientError):
            ours.AmazonS3Cache("bucket")
        s3_client.add_response("head_bucket", {})
        with pytest.raises(ArgumentError, match="S3 did not return a region for bucket 'bucket'"):
            ours.AmazonS3Cache("bucket")

    def test_google_by_name(self, monkeypatch):
        """A bucket's name is used with Google's default credentials, for reading and writing."""
        asked_for = []
        credentials = SimpleNamespace(token="t", expiry=None, refresh=lambda request: None)
        monkeypatch.setattr("google.auth.default", lambda scopes: (credentials, asked_for.extend(scopes)))
        cache = ours.GoogleStorageCache("bucket")
        assert asked_for == ["https://www.googleapis.com/auth/devstorage.read_write"]
        assert (type(cache.store).__name__, cache.bucket, str(cache.prefix)) == ("GCSStore", "bucket", "jobs")

    @pytest.mark.usefixtures("google_api_core")
    def test_google_bucket_object(self):
        """A Bucket is used as it is; values are below "jobs", and folder markers are no values."""
        bucket = FakeBucket()
        cache = ours.GoogleStorageCache(bucket)
        cache.group("a")["b"] = b"1"
        bucket.objects["jobs/"] = b""
        assert bucket.objects == {"jobs/a/b": b"1", "jobs/": b""}
        assert (list(cache), list(cache.group("a").items())) == ([], [("b", b"1")])
        del cache["a/b"]
        with pytest.raises(KeyError, match="a/b is not cached!"):
            del cache["a/b"]

    def test_azure_with_a_key(self, monkeypatch):
        """An account key in the environment is enough."""
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
        cache = ours.AzureBlobCache("account", "container")
        assert (cache.store.config["account_name"], str(cache.prefix)) == ("account", "jobs")
        assert cache.store.credential_provider is None

    def test_azure_identity(self):
        """Without a key Azure Identity is used."""
        assert ours.AzureBlobCache("account", "container").store.credential_provider is not None


def test_import_is_light():
    """Importing the module loads no object store."""
    code = "import sys, tilebox_local.cache; print({'obstore', 'boto3', 'google.auth'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
