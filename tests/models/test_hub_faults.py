"""What a Hub, a network, a disk and a planted cache can do wrong, and what is said then."""

from __future__ import annotations

import errno
import inspect
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from huggingface_hub import close_session, constants, errors, get_session

from hub_server import COMMIT, LATER, REPO, TOKEN, Hub, blob_of, run_pull, serving, start_pull
from istar.errors import HubError
from istar.models.hub import (
    EVERYTHING,
    PullPlan,
    RepoRevision,
    cached_snapshot,
    client,
    pull,
    pull_all,
    remove,
    repair,
    verify,
)

PINNED = RepoRevision(repo=REPO, revision=COMMIT)
LARGE, SMALL = "big/model.safetensors", "big/config.json"
FILES = {LARGE: Random(1).randbytes(1_500_000), SMALL: b'{"a": 1}'}
SHA1 = "0" * 40


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({COMMIT: dict(FILES)}, {"main": COMMIT})) as hub:
        yield hub


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    cache = tmp_path / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(client, "RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield cache
    close_session()


def failure(where: RepoRevision = PINNED, wanted: tuple[str, ...] = ("big/",)) -> str:
    """The one line that a failing pull says."""
    with pytest.raises(HubError) as caught:
        pull(where, wanted)
    text = str(caught.value)
    assert text.isprintable(), text
    return text


def in_blobs(cache: Path) -> set[str]:
    return {path.name for path in (cache / PINNED.folder_name / "blobs").glob("*")}


def test_the_hubs_client_has_what_is_used_of_it() -> None:
    """What is not promised to stay: attributes of its session, and names of its exceptions."""
    names = {kind.__name__ for kind in errors.HfHubHTTPError.__mro__}
    assert {"HTTPError", "OSError"} <= names
    assert {"url", "headers", "timeout"} <= set(inspect.signature(get_session().stream).parameters)
    library = sys.modules[type(get_session()).__module__.split(".")[0]]
    for name in (
        "ConnectError",
        "ConnectTimeout",
        "DecodingError",
        "InvalidURL",
        "LocalProtocolError",
        "NetworkError",
        "ProxyError",
        "RemoteProtocolError",
        "TimeoutException",
        "TooManyRedirects",
        "UnsupportedProtocol",
    ):
        assert issubclass(getattr(library, name), Exception)
    for name in ("GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError"):
        assert issubclass(getattr(errors, name), errors.HfHubHTTPError)
    for name in ("EntryNotFoundError", "OfflineModeIsEnabled", "DisabledRepoError"):
        assert issubclass(getattr(errors, name), Exception)
    close_session()


class TestBodies:
    def test_a_flipped_byte_is_noticed_and_the_file_fetched_anew(
        self, hub: Hub, cache: Path
    ) -> None:
        hub.faults.flips = 1
        told: list[object] = []
        snapshot = pull(PINNED, [LARGE], told.append)
        assert (snapshot / LARGE).read_bytes() == FILES[LARGE]
        assert len(hub.bodies()) == 2
        assert any("damaged on the way" in str(event) for event in told)

    @pytest.mark.parametrize("path", [LARGE, SMALL])
    def test_bytes_that_stay_flipped_are_not_kept(self, path: str, hub: Hub, cache: Path) -> None:
        hub.faults.flips = 99
        assert f"{path} of someone/model" in failure(wanted=(path,))
        assert in_blobs(cache) == set()
        assert len(hub.bodies(f"resolve/{COMMIT}/{path}")) == 2
        assert cached_snapshot(PINNED, [path]) is None

    @pytest.mark.parametrize("path", [LARGE, SMALL])
    @pytest.mark.parametrize("lengthen", [-5, 7, 100_000])
    def test_bodies_of_another_length_are_not_kept(
        self, path: str, lengthen: int, hub: Hub, cache: Path
    ) -> None:
        hub.faults.lengthen = lengthen
        text = failure(wanted=(path,))
        assert "damaged twice" in text
        size = len(FILES[path])
        assert (f"more than {size} bytes" if lengthen > 0 else f"of {size} bytes came") in text
        assert in_blobs(cache) == set()

    def test_another_range_than_asked_for_is_not_added(self, hub: Hub, cache: Path) -> None:
        hub.faults.cuts = [500_000]
        hub.faults.wrong_range = True
        told: list[object] = []
        snapshot = pull(PINNED, [LARGE], told.append)
        assert (snapshot / LARGE).read_bytes() == FILES[LARGE]
        assert [request.range for request in hub.bodies()] == [None, "bytes=500000-", None]

    def test_another_etag_or_commit_than_listed_is_refused(self, hub: Hub, cache: Path) -> None:
        for header, value in (
            ("X-Linked-ETag", '"../../../etc/passwd"'),
            ("X-Linked-ETag", "0" * 64),
            ("X-Repo-Commit", LATER),
            ("X-Repo-Commit", "../../x"),
        ):
            hub.faults.headers = {header: value}
            assert "another state" in failure(wanted=(LARGE,))
            parts = [(cache / PINNED.folder_name / "blobs" / name) for name in in_blobs(cache)]
            assert all(part.suffix == ".part" and not part.stat().st_size for part in parts)
            assert cached_snapshot(PINNED, [LARGE]) is None


class TestHostileAnswers:
    @pytest.mark.parametrize(
        "path",
        [
            "/etc/passwd",
            "../../../x",
            "big/../../x",
            "big//x",
            "big/./x",
            "big/x/",
            "",
            "big\\..\\x",
            "C:/x",
            "c:x",
            "big/\0",
            "big/\x1b[31m",
            "big/\n",
            "big/\u202ex",
            "big/\ud800",
            "big/" + "x" * 256,
            7,
            None,
        ],
    )
    def test_names_that_lead_elsewhere_are_refused(
        self, path: object, hub: Hub, cache: Path
    ) -> None:
        hub.faults.answer[COMMIT] = [*hub.tree(COMMIT), {"path": path, "size": 1, "oid": SHA1}]
        failure(wanted=(EVERYTHING,))
        assert not cache.exists()
        assert not hub.bodies("resolve")

    @pytest.mark.parametrize(
        "entry",
        [
            {"path": "x", "size": 1, "oid": "../../../../tmp/x"},
            {"path": "x", "size": 1, "oid": "0" * 39},
            {"path": "x", "size": 1, "oid": "0" * 40 + "\n"},
            {"path": "x", "size": 1, "oid": "G" * 40},
            {"path": "x", "size": 1, "oid": None},
            {"path": "x", "size": 1, "oid": SHA1, "lfs": {"oid": "/etc/passwd"}},
            {"path": "x", "size": -1, "oid": SHA1},
            {"path": "x", "size": 10**30, "oid": SHA1},
            {"path": "x", "size": "1", "oid": SHA1},
            {"path": SMALL, "size": 1, "oid": SHA1},
            {"path": f"{SMALL}/below", "size": 1, "oid": SHA1},
            "x",
            None,
        ],
    )
    def test_hashes_and_sizes_that_are_none_are_refused(
        self, entry: object, hub: Hub, cache: Path
    ) -> None:
        hub.faults.answer[COMMIT] = [*hub.tree(COMMIT), entry]
        failure()
        assert not cache.exists()

    @pytest.mark.parametrize("answer", [{}, [], 7, None, "x" * 1000, {"sha": "../../x"}])
    def test_answers_that_are_none_are_refused(self, answer: object, hub: Hub, cache: Path) -> None:
        hub.faults.answer["revision/main"] = answer
        failure(RepoRevision(repo=REPO))
        hub.faults.answer[COMMIT] = answer
        failure()
        assert not cache.exists() or not in_blobs(cache)

    def test_a_page_that_is_no_json_names_the_endpoint(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json, "dumps", lambda *_: "<html>log in to the network</html>")
        assert "HF_ENDPOINT" in failure()

    def test_a_list_is_not_followed_to_another_host(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.faults.elsewhere = hub.address.replace("127.0.0.1", "localhost") + "/api/"
        assert "another host" in failure()
        assert all(request.host.startswith("127.0.0.1") for request in hub.log)

    @pytest.mark.parametrize(
        "repo", ["model", "a/b/c", "../x", "a/..", "a/b\n", "", "/", "a b/c", "a--b/c", "-/x"]
    )
    def test_what_names_no_repository_is_refused(self, repo: str) -> None:
        with pytest.raises(HubError, match="owner/name"):
            RepoRevision(repo=repo)

    @pytest.mark.parametrize("revision", ["", "../x", "a/../b", "/main", "a b", "a\0", "x/", "-x"])
    def test_what_names_no_revision_is_refused(self, revision: str) -> None:
        with pytest.raises(HubError, match="branch"):
            RepoRevision(repo=REPO, revision=revision)

    @pytest.mark.parametrize("wanted", [[], ["../x"], ["/etc/"], ["a\\b"], ["/"]])
    def test_what_names_no_file_is_refused(self, wanted: list[str], cache: Path) -> None:
        for ask in (pull, cached_snapshot, verify, remove):
            with pytest.raises(HubError):
                ask(PINNED, wanted)


class TestPlantedLinks:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        """A directory that nothing may be written to."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "precious").write_text("precious")
        return outside

    @pytest.mark.parametrize(
        "below",
        [
            "models--someone--model",
            "models--someone--model/blobs",
            "models--someone--model/snapshots",
            f"models--someone--model/snapshots/{COMMIT}",
            f"models--someone--model/snapshots/{COMMIT}/big",
            "models--someone--model/trees",
            ".locks",
            ".locks/models--someone--model",
        ],
    )
    def test_directories_that_lead_elsewhere_are_refused(
        self, below: str, hub: Hub, cache: Path, outside: Path
    ) -> None:
        place = cache / below
        place.parent.mkdir(parents=True)
        place.symlink_to(outside)
        assert str(place) in failure()
        assert [path.name for path in outside.iterdir()] == ["precious"]
        assert not hub.bodies()

    @pytest.mark.parametrize("ending", ["", ".part", ".part to nothing"])
    def test_blobs_that_lead_elsewhere_are_refused(
        self, ending: str, hub: Hub, cache: Path, outside: Path
    ) -> None:
        blobs = cache / PINNED.folder_name / "blobs"
        blobs.mkdir(parents=True)
        name = blob_of(LARGE, FILES[LARGE]) + ending.removesuffix(" to nothing")
        target = outside / ("absent" if "nothing" in ending else "precious")
        (blobs / name).symlink_to(target)
        assert str(blobs / name) in failure()
        assert [path.name for path in outside.iterdir()] == ["precious"]
        assert (outside / "precious").read_text() == "precious"

    def test_a_part_with_a_second_name_is_refused(
        self, hub: Hub, cache: Path, outside: Path
    ) -> None:
        blobs = cache / PINNED.folder_name / "blobs"
        blobs.mkdir(parents=True)
        os.link(outside / "precious", blobs / f"{blob_of(LARGE, FILES[LARGE])}.part")
        assert "second name" in failure()
        assert (outside / "precious").read_text() == "precious"

    def test_a_lock_that_leads_elsewhere_is_refused(
        self, hub: Hub, cache: Path, outside: Path
    ) -> None:
        locks = cache / ".locks" / PINNED.folder_name
        locks.mkdir(parents=True)
        (locks / f"{blob_of(LARGE, FILES[LARGE])}.lock").symlink_to(outside / "precious")
        assert "is a link" in failure()
        assert (outside / "precious").read_text() == "precious"

    def test_an_entry_of_a_snapshot_that_leads_elsewhere_is_refused_until_repaired(
        self, hub: Hub, cache: Path, outside: Path
    ) -> None:
        snapshot = pull(PINNED, ["big/"])
        (outside / "precious").write_bytes(FILES[LARGE])
        (snapshot / LARGE).unlink()
        (snapshot / LARGE).symlink_to(outside / "precious")
        assert str(snapshot / LARGE) in failure()
        with pytest.raises(HubError, match="link"):
            cached_snapshot(PINNED, ["big/"])
        assert [problem.kind for problem in repair(PINNED, ["big/"])] == ["link"]
        assert (pull(PINNED, ["big/"]) / LARGE).resolve().parent == snapshot.parents[1] / "blobs"
        assert (outside / "precious").exists()

    def test_removing_does_not_follow_links(self, hub: Hub, cache: Path, outside: Path) -> None:
        snapshot = pull(PINNED, ["big/"])
        shutil.rmtree(snapshot / "big")
        (snapshot / "big").symlink_to(outside)
        (outside / "model.safetensors").write_text("mine")
        remove(PINNED, ["big/"])
        assert (outside / "model.safetensors").read_text() == "mine"
        assert (outside / "precious").read_text() == "precious"

    def test_the_hubs_own_store_of_shared_blobs_is_known(self, hub: Hub, cache: Path) -> None:
        """Since version 2 the Hub's client may keep a blob once for all repositories."""
        snapshot = pull(PINNED, ["big/"])
        blob, name = (snapshot / LARGE).resolve(), "ab" * 32
        shared = cache / "blobs" / "ab" / name
        shared.parent.mkdir(parents=True)
        blob.rename(shared)
        blob.symlink_to(f"../../blobs/ab/{name}")
        assert cached_snapshot(PINNED, ["big/"]) == snapshot
        assert verify(PINNED, ["big/"]) == []

    def test_a_damaged_ref_is_named(self, hub: Hub, cache: Path, outside: Path) -> None:
        ref = cache / PINNED.folder_name / "refs" / "main"
        ref.parent.mkdir(parents=True)
        for text in ("../../../outside", "", "x" * 5000):
            ref.write_text(text)
            assert str(ref) in failure(RepoRevision(repo=REPO))
        ref.unlink()
        ref.symlink_to(outside / "precious")
        assert str(ref) in failure(RepoRevision(repo=REPO))


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "said"),
        [
            (401, None, "hf auth login"),
            (401, "GatedRepo", "gated"),
            (403, "GatedRepo", "hf auth login"),
            (403, None, "ask for access"),
            (404, "RepoNotFound", "check the spelling"),
            (404, "RevisionNotFound", "no such revision"),
            (404, None, "check the spelling"),
            (418, None, "418"),
            (429, None, "wait some minutes"),
            (500, None, "fails at the moment (500)"),
            (503, None, "same command again"),
        ],
    )
    def test_each_status_says_what_to_do(
        self, status: int, code: str | None, said: str, hub: Hub, cache: Path
    ) -> None:
        hub.faults.status["/api/"] = (status, code)
        for where in (PINNED, RepoRevision(repo=REPO)):
            text = failure(where)
            assert said in text
            assert "server text" not in text

    @pytest.mark.parametrize(("status", "said"), [(404, "does not have"), (500, "500"), (403, "")])
    def test_a_file_that_is_refused_leaves_nothing(
        self, status: int, said: str, hub: Hub, cache: Path
    ) -> None:
        hub.faults.status["/resolve/"] = (status, "EntryNotFound" if status == 404 else None)
        assert said in failure()
        assert cached_snapshot(PINNED, ["big/"]) is None
        assert not list((cache / PINNED.folder_name / "snapshots").glob("*/*"))

    def test_the_storage_may_fail_for_a_moment(self, hub: Hub, cache: Path) -> None:
        hub.faults.status["/cdn/"] = (503, None)
        assert "503" in failure()
        assert len(hub.bodies()) == 3
        hub.faults.status.clear()
        assert pull(PINNED, ["big/"])

    @pytest.mark.parametrize("part", ["/api/", "/cdn/"])
    def test_a_pause_that_is_long_is_said_and_not_slept(
        self, part: str, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        hub.faults.status[part], hub.faults.retry_after = (429, None), 300
        assert "wait 300 seconds" in failure()
        assert len(hub.bodies(part)) == 1

    @pytest.mark.parametrize("part", ["/api/", "/cdn/"])
    def test_a_pause_that_is_short_is_kept(
        self, part: str, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept: list[float] = []
        monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds))
        hub.faults.status[part], hub.faults.retry_after = (429, None), 7
        assert "wait 7 seconds" in failure()
        assert [seconds for seconds in slept if seconds] == [7, 7]
        assert len(hub.bodies(part)) == 3

    def test_a_token_that_is_refused_is_not_shown(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.faults.status["/api/"] = (401, None)
        text = failure()
        assert "refused your token" in text
        assert TOKEN not in text

    def test_a_failing_hub_is_given_up_in_seconds(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults.status["/api/"] = (500, None)
        assert "500" in run_pull(tmp_path, hub.address).error
        assert len(hub.log) == 3

    def test_a_failing_hub_does_not_stop_what_is_cached(self, hub: Hub, cache: Path) -> None:
        branch = RepoRevision(repo=REPO)
        snapshot = pull(branch, ["big/"])
        hub.faults.status["/api/"] = (503, None)
        hub.log.clear()
        told: list[object] = []
        assert pull(branch, ["big/"], told.append) == snapshot
        assert "503" in str(told)
        assert len(hub.log) == 1
        (snapshot / LARGE).resolve().unlink()
        assert "503" in failure(branch)

    @pytest.mark.parametrize("address", ["huggingface.co", "ftp://x", "https://", "/tmp"])
    def test_an_endpoint_that_is_no_address_is_named(self, address: str, tmp_path: Path) -> None:
        assert "HF_ENDPOINT" in run_pull(tmp_path, address).error

    def test_a_hub_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        for address in ("http://127.0.0.1:9", "http://no.such.host.invalid"):
            assert "cannot be reached" in run_pull(tmp_path, address).error

    def test_a_hub_without_tls_is_said(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address.replace("http", "https"))
        assert "no secure connection" in failure()

    @pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
    def test_a_certificate_that_is_none_is_said(
        self, hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        made = subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
                *("-subj", "/CN=127.0.0.1", "-keyout", key, "-out", certificate),
            ],
            capture_output=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with serving(hub, context) as secured:
            monkeypatch.setattr(constants, "ENDPOINT", secured.address)
            assert "certificate" in failure()


class TestDisk:
    def test_too_little_room_is_said_before_anything_is_fetched(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = namedtuple("usage", "total used free")
        total = sum(len(content) for content in FILES.values())
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, total - 1))
        text = failure()
        assert f"{total} bytes" in text
        assert f"{total - 1} bytes" in text
        assert "HF_HUB_CACHE" in text
        assert not hub.bodies("resolve")
        part = cache / PINNED.folder_name / "blobs" / f"{blob_of(LARGE, FILES[LARGE])}.part"
        part.parent.mkdir()
        part.write_bytes(FILES[LARGE][:1])
        assert pull(PINNED, ["big/"]), "what is left from before needs no more room"

    def test_the_room_for_all_revisions_is_looked_for_at_first(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.commits[LATER] = {**FILES, "later/x.safetensors": Random(2).randbytes(100_000)}
        usage = namedtuple("usage", "total used free")
        total = sum(len(content) for content in hub.commits[LATER].values())
        wanted = {PINNED: ["big/"], RepoRevision(repo=REPO, revision=LATER): ["later/"]}
        free = total - 1
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free))
        with pytest.raises(HubError, match=f"{total} bytes"):
            pull_all(wanted)
        assert not hub.bodies("resolve")
        free, told = total, []
        snapshots = pull_all(wanted, told.append)
        assert [path.name for path in snapshots.values()] == [COMMIT, LATER]
        (plan,) = (event for event in told if isinstance(event, PullPlan))
        assert (plan.files_missing, plan.bytes_missing) == (3, total)
        assert (snapshots[PINNED] / LARGE).read_bytes() == FILES[LARGE]

    def test_a_full_disk_keeps_what_came(self, hub: Hub, tmp_path: Path) -> None:
        error = run_pull(tmp_path, hub.address, (LARGE,), largest_file=700_000).error
        assert "Free space" in error
        assert "is kept" in error
        hub.log.clear()
        done = run_pull(tmp_path, hub.address, (LARGE,))
        assert (done.path / LARGE).read_bytes() == FILES[LARGE]
        (body,) = hub.bodies()
        assert body.range
        assert int(body.range[6:-1]) > 0

    @pytest.mark.parametrize(
        ("number", "said"),
        [
            (errno.ENOSPC, "disk of"),
            (errno.EDQUOT, "disk of"),
            (errno.EROFS, "cannot be written"),
            (errno.EACCES, "cannot be written"),
            (errno.EIO, "does not serve"),
        ],
    )
    def test_each_failure_to_write_says_what_to_do(
        self, number: int, said: str, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", refuse)
        text = failure()
        assert said in text
        assert str(cache) in text
        monkeypatch.undo()
        assert cached_snapshot(PINNED, ["big/"]) is None
        assert not list((cache / PINNED.folder_name / "snapshots").glob("*/*"))

    @pytest.mark.parametrize("depth", [0, 1])
    def test_a_cache_that_is_a_file_is_named(self, depth: int, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        place = tmp_path / "file" / "/".join(["below"] * depth)
        error = run_pull(tmp_path, hub.address, HF_HUB_CACHE=str(place)).error
        assert f"{tmp_path / 'file'} is not a directory" in error
        assert "HF_HUB_CACHE" in error
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_file_in_place_of_a_directory_is_named(self, hub: Hub, cache: Path) -> None:
        blobs = cache / PINNED.folder_name / "blobs"
        blobs.parent.mkdir(parents=True)
        blobs.write_text("mine")
        assert str(blobs) in failure()
        assert blobs.read_text() == "mine"

    def test_a_cache_that_cannot_be_made_is_named(self, hub: Hub, tmp_path: Path) -> None:
        """Not even root can make a directory below /proc/self."""
        error = run_pull(tmp_path, hub.address, (LARGE,), HF_HUB_CACHE="/proc/self/cache").error
        assert "/proc/self/cache" in error

    def test_a_whole_cache_that_cannot_be_written_serves(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        branch = RepoRevision(repo=REPO)
        snapshot = pull(branch, ["big/"])
        shutil.rmtree(cache / PINNED.folder_name / "trees")
        (cache / PINNED.folder_name / "refs" / "main").unlink()

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        for name in ("mkdir", "unlink", "rename", "replace", "symlink"):
            monkeypatch.setattr(os, name, refuse)
        real = os.open
        monkeypatch.setattr(
            os, "open", lambda p, f, *a, **k: refuse() if f & os.O_CREAT else real(p, f, *a, **k)
        )
        assert pull(branch, ["big/"]) == snapshot


def test_an_interrupt_while_waiting_leaves_no_lock(hub: Hub, tmp_path: Path) -> None:
    hub.faults.pause = 0.1
    first = start_pull(tmp_path, hub.address, (LARGE,))
    first.wait_for("FileProgress", done=1)
    second = start_pull(tmp_path, hub.address, (LARGE,))
    second.wait_for("Waiting")
    second.process.send_signal(signal.SIGINT)
    assert second.finish().code == 130
    hub.faults.pause = 0
    assert first.finish().path
    assert not list((tmp_path / "hf" / "hub" / ".locks").rglob("*.pid"))
