"""What a Hub, a network and a disk can do wrong, and what is said then."""

from __future__ import annotations

import errno
import inspect
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from huggingface_hub import close_session, constants, errors, file_download, get_session
from huggingface_hub.utils._fixes import WeakFileLock
from huggingface_hub.utils._headers import build_hf_headers

from hub_server import (
    COMMIT,
    FILES,
    LARGE,
    LATER,
    REPO,
    TOKEN,
    Hub,
    blob,
    folder,
    run_pull,
    serving,
)
from istar.errors import HubError
from istar.models import download
from istar.models.download_events import DownloadPlanned
from istar.models.hub import cached_files, pull, remove, verify
from istar.models.repository import RepoRevision

PINNED, BRANCH = RepoRevision(repo=REPO, revision=COMMIT), RepoRevision(repo=REPO)
SMALL = "big/index.json"
SHA1 = "0" * 40


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, none of which is waited for."""
    pauses: list[float] = []

    def wait(event: Event, seconds: float | None = None) -> bool:
        pauses.append(seconds or 0.0)
        return event.is_set()

    event = type("HastyEvent", (), {"__init__": lambda self: setattr(self, "event", Event())})
    event.set = lambda self: self.event.set()
    event.is_set = lambda self: self.event.is_set()
    event.wait = lambda self, seconds: wait(self.event, seconds)
    monkeypatch.setattr(download, "Event", event)
    return pauses


def failure(where: RepoRevision = PINNED, wanted: tuple[str, ...] = ("big/",)) -> str:
    """The one line that a failing pull says; nothing of the large file then counts as there."""
    with pytest.raises(HubError) as caught:
        pull({where: wanted})
    assert cached_files(where, [LARGE]).snapshot is None
    text = str(caught.value)
    assert text.isprintable(), text
    return text


def test_the_hubs_client_has_what_is_used_of_it() -> None:
    """What is not promised to stay: parts of its session, and names of its exceptions."""
    assert issubclass(errors.HfHubHTTPError, OSError)
    assert {"url", "headers", "timeout"} <= set(inspect.signature(get_session().stream).parameters)
    library = sys.modules[type(get_session()).__module__.split(".")[0]]
    for name in (
        *("ConnectError", "ConnectTimeout", "HTTPError", "InvalidURL", "LocalProtocolError"),
        *("NetworkError", "ProxyError", "RemoteProtocolError", "TimeoutException"),
        "UnsupportedProtocol",
    ):
        assert issubclass(getattr(library, name), Exception)
    for name in ("GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError"):
        assert issubclass(getattr(errors, name), errors.HfHubHTTPError)
    for name in ("EntryNotFoundError", "OfflineModeIsEnabled"):
        assert issubclass(getattr(errors, name), Exception)
    assert {"library_name", "library_version"} <= set(
        inspect.signature(build_hf_headers).parameters
    )
    assert {"lock_file", "timeout"} <= set(inspect.signature(WeakFileLock).parameters)
    name = file_download.repo_folder_name(repo_id=REPO, repo_type="model")
    assert name == folder(Path()).name
    close_session()


class TestBodies:
    @pytest.mark.parametrize("path", [LARGE, SMALL])
    def test_a_flipped_byte_is_noticed_and_the_file_fetched_anew_once(
        self, path: str, hub: Hub, cache: Path
    ) -> None:
        hub.faults.flips = 1
        notes: list[object] = []
        snapshot = pull({PINNED: [path]}, notes.append)[PINNED]
        assert (snapshot / path).read_bytes() == FILES[path]
        assert any("damaged on the way" in str(event) for event in notes)
        remove(PINNED, [path])
        hub.faults.flips = 99
        assert f"{path} came damaged twice" in failure(wanted=(path,))
        assert not list((folder(cache.parents[1]) / "blobs").iterdir())

    @pytest.mark.parametrize("path", [LARGE, SMALL])
    @pytest.mark.parametrize("lengthen", [-5, pytest.param(7, marks=pytest.mark.slow), 100_000])
    def test_bodies_of_another_length_are_not_kept(
        self, path: str, lengthen: int, hub: Hub, cache: Path
    ) -> None:
        hub.faults.lengthen = lengthen
        assert "damaged twice" in failure(wanted=(path,))
        assert not list((folder(cache.parents[1]) / "blobs").iterdir())

    def test_another_range_than_asked_for_is_not_used(self, hub: Hub, cache: Path) -> None:
        hub.faults.wrong_range = True
        assert "the Hub sent the range" in failure(wanted=(LARGE,))
        assert not list((folder(cache.parents[1]) / "blobs").iterdir())

    @pytest.mark.parametrize("tag", ['"../../../etc/passwd"', f'"{"0" * 64}"', "W/x"])
    def test_only_the_hash_of_the_content_counts(self, tag: str, hub: Hub, cache: Path) -> None:
        """Mirrors change what the Hub calls a file, and nothing is named by it."""
        hub.faults.headers = {"X-Linked-ETag": tag, "ETag": tag, "X-Repo-Commit": "../../x"}
        assert (pull({PINNED: [LARGE]})[PINNED] / LARGE).resolve() == blob(cache.parents[1])

    def test_a_server_without_ranges_that_breaks_off_is_given_up(
        self, hub: Hub, cache: Path
    ) -> None:
        hub.faults.ignore_range, hub.faults.cuts = True, [1_000_000] * 99
        assert "cannot continue a file" in failure(wanted=(LARGE,))


class TestHostileAnswers:
    @pytest.mark.parametrize(
        "entry",
        [
            *(
                {"rfilename": path, "size": 1, "blobId": SHA1}
                for path in (
                    *("/etc/passwd", "../../../x", "big/../../x", "big//x", "big/./x", "big/x/"),
                    *("", "big\\..\\x", "C:/x", "c:x", "big/\0", "big/\x1b[31m", "big/\n"),
                    *("big/\u202ex", "big/\ud800"),
                )
            ),
            *(
                {"rfilename": "x", "size": 1, "blobId": blob}
                for blob in ("../../../../x", "0" * 39, SHA1 + "\n", "G" * 40, None, 7)
            ),
            *({"rfilename": "x", "size": size, "blobId": SHA1} for size in (-1, "1", None)),
            {"rfilename": "x", "size": 1, "blobId": SHA1, "lfs": {"size": 1, "sha256": "/etc"}},
            *("x", None, {}),
        ],
    )
    def test_names_hashes_and_sizes_that_make_no_sense_are_refused(
        self, entry: object, hub: Hub, cache: Path
    ) -> None:
        hub.faults.answer[COMMIT] = hub.description(COMMIT, entry)
        failure()
        assert not cache.exists()
        assert not hub.bodies("resolve")

    @pytest.mark.parametrize("answer", [{}, [], 7, None, "x" * 1000, {"sha": "../../x"}])
    def test_answers_that_make_no_sense_are_refused(
        self, answer: object, hub: Hub, cache: Path
    ) -> None:
        hub.faults.answer["revision/main"] = answer
        failure(BRANCH)
        hub.faults.answer[COMMIT] = answer
        failure()
        assert not hub.bodies("resolve")

    def test_a_page_that_is_no_json_names_the_endpoint(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json, "dumps", lambda *_, **__: "<html>log in to the network</html>")
        assert "HF_ENDPOINT" in failure()

    @pytest.mark.parametrize(
        ("repo", "revision"),
        [
            *((repo, "main") for repo in ("model", "a/b/c", "../x", "a/..", "a/b\n", "", "a b/c")),
            *((repo, "main") for repo in ("a--b/c", "-/x", "a/b.git")),
            *((REPO, name) for name in ("", "../x", "a/../b", "/main", "a b", "a\0", "x/", "-x")),
        ],
    )
    def test_what_names_no_repository_or_revision_is_refused(
        self, repo: str, revision: str
    ) -> None:
        with pytest.raises(HubError, match=r"owner/name|a branch, a tag"):
            RepoRevision(repo=repo, revision=revision)

    @pytest.mark.parametrize("path", ["../x", "/etc/", "a\\b", "/"])
    def test_what_names_no_file_is_refused(self, path: str, cache: Path) -> None:
        for ask in (cached_files, verify, remove, lambda where, paths: pull({where: paths})):
            with pytest.raises(HubError, match="refused as the name"):
                ask(PINNED, [path])


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
            (503, None, "try again"),
        ],
    )
    def test_each_status_says_what_to_do(
        self, status: int, code: str | None, said: str, hub: Hub, cache: Path
    ) -> None:
        hub.faults.status["/api/"] = (status, code)
        text = failure()
        assert said in text
        assert "server text" not in text
        assert len(hub.log) == 1

    @pytest.mark.parametrize(
        ("status", "said"), [(404, "does not have"), (500, "500"), (403, "ask for access")]
    )
    def test_a_file_that_is_refused_leaves_nothing(
        self, status: int, said: str, hub: Hub, cache: Path
    ) -> None:
        hub.faults.status["/resolve/"] = (status, "EntryNotFound" if status == 404 else None)
        assert said in failure(wanted=(LARGE,))
        assert not list(folder(cache.parents[1]).glob("snapshots/*/*"))

    @pytest.mark.parametrize(("retry_after", "pauses"), [(300, set()), (7, {7.0}), (None, {0.5})])
    def test_a_short_pause_is_kept_and_a_long_one_said(
        self,
        retry_after: int | None,
        pauses: set[float],
        hub: Hub,
        cache: Path,
        hasty: list[float],
    ) -> None:
        hub.faults.status["/cdn/"], hub.faults.retry_after = (429, None), retry_after
        assert f"wait {f'{retry_after} seconds' if retry_after else 'some minutes'}" in failure()
        assert set(hasty) == pauses
        hub.faults.status.clear()
        assert pull({PINNED: [LARGE]})

    def test_a_token_that_is_refused_is_not_shown(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.faults.status["/api/"] = (401, None)
        text = failure()
        assert "refused your token" in text
        assert TOKEN not in text

    def test_a_failing_hub_does_not_stop_what_is_cached(self, hub: Hub, cache: Path) -> None:
        snapshot = pull({BRANCH: ["big/"]})[BRANCH]
        hub.faults.status["/api/"] = (503, None)
        notes: list[object] = []
        assert pull({BRANCH: ["big/"]}, notes.append)[BRANCH] == snapshot
        assert "503" in str(notes)
        (snapshot / LARGE).resolve().unlink()
        assert "503" in failure(BRANCH)

    @pytest.mark.parametrize(
        ("address", "said"),
        [
            ("ftp://x", "HF_ENDPOINT"),
            *(slow(address, "HF_ENDPOINT") for address in ("huggingface.co", "https://")),
            slow("http://127.0.0.1:9", "cannot be reached"),
            ("http://no.such.host.invalid", "cannot be reached"),
        ],
    )
    def test_an_endpoint_that_is_not_there_is_named(
        self, address: str, said: str, tmp_path: Path
    ) -> None:
        assert said in run_pull(tmp_path, address).error

    @pytest.mark.parametrize(
        ("variable", "value", "said"),
        [
            ("HTTP_PROXY", "socks5://me:secret@x:1080", "HTTP_PROXY=socks5://x:1080 is a SOCKS"),
            slow("https_proxy", "ftp://x:1", "https_proxy=ftp://x:1 is not the address of a proxy"),
            (
                "ALL_PROXY",
                "http://u:secret@[::1",
                "ALL_PROXY=http://[::1 is not the address of a proxy",
            ),
            slow("http_proxy", "http://", "http_proxy=http:// is not the address of a proxy"),
            slow("HTTP_PROXY", "no.such.host.invalid", "reached through HTTP_PROXY=no.such.host"),
            ("HTTP_PROXY", "secret@127.0.0.1:9", "reached through HTTP_PROXY=127.0.0.1:9"),
            ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE=/nowhere"),
            slow("SSL_CERT_FILE", "/", "SSL_CERT_FILE=/"),
            slow("HF_HUB_ETAG_TIMEOUT", "", "correct or unset HF_HUB_ETAG_TIMEOUT"),
            ("HF_HUB_ETAG_TIMEOUT", "-1", "correct or unset HF_HUB_ETAG_TIMEOUT"),
            slow("HF_HUB_DOWNLOAD_TIMEOUT", "9" * 30, "correct or unset HF_HUB_DOWNLOAD_TIMEOUT"),
            ("HF_HOME", "/dev/null/x", "correct or unset HF_HOME"),
        ],
    )
    def test_a_variable_that_keeps_the_client_from_asking_is_named(
        self, variable: str, value: str, said: str, hub: Hub, tmp_path: Path
    ) -> None:
        text = run_pull(tmp_path, hub.address, **{"NO_PROXY": "", variable: value}).error
        assert said in text
        assert "secret" not in text
        assert not hub.log

    def test_a_hub_without_tls_is_said(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address.replace("http", "https"))
        assert "no secure connection" in failure()

    @pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
    def test_a_certificate_nobody_knows_is_said(
        self, hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
        command += ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, capture_output=True, check=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with serving(hub, context) as secured:
            monkeypatch.setattr(constants, "ENDPOINT", secured.address)
            assert "certificate" in failure()


class TestDisk:
    def test_the_room_for_all_revisions_is_checked_first(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.commits[LATER]["later/x.safetensors"] = b"x" * 1_000_000
        wanted = {PINNED: ["big/"], RepoRevision(repo=REPO, revision=LATER): ["later/"]}
        total = 1_000_000 + sum(len(FILES[path]) for path in FILES if path.startswith("big/"))
        usage = namedtuple("usage", "total used free")
        free = total - 1
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free))
        with pytest.raises(HubError, match=r"needs 6\.0 MB more, and the disk of .* has 6\.0 MB"):
            pull(wanted)
        assert not hub.bodies("resolve")
        free, heard = total, []
        snapshots = pull(wanted, heard.append)
        assert [path.name for path in snapshots.values()] == [COMMIT, LATER]
        (plan,) = (event for event in heard if isinstance(event, DownloadPlanned))
        assert (plan.files_missing, plan.bytes_missing) == (4, total)

    @pytest.mark.parametrize(
        ("number", "said"),
        [
            (errno.ENOSPC, "disk of"),
            pytest.param(errno.EDQUOT, "disk of", marks=pytest.mark.slow),
            (errno.EFBIG, "is kept"),
            (errno.EROFS, "cannot be written"),
            pytest.param(errno.EACCES, "cannot be written", marks=pytest.mark.slow),
            (errno.EIO, "cannot be used"),
        ],
    )
    def test_each_failure_to_write_says_what_to_do(
        self, number: int, said: str, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", refuse)
        text = failure(wanted=(LARGE,))
        assert said in text
        assert str(cache) in text
        monkeypatch.undo()
        assert not list(folder(cache.parents[1]).glob("snapshots/*/*"))

    @pytest.mark.parametrize("depth", [pytest.param(0, marks=pytest.mark.slow), 1])
    def test_a_cache_that_is_a_file_is_named(self, depth: int, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        place = tmp_path / "file" / "/".join(["below"] * depth)
        error = run_pull(tmp_path, hub.address, HF_HUB_CACHE=str(place)).error
        assert f"{tmp_path / 'file'} is not a directory" in error
        assert "HF_HUB_CACHE" in error

    def test_a_file_in_place_of_a_directory_is_named(
        self, hub: Hub, cache: Path, tmp_path: Path
    ) -> None:
        folder(tmp_path).mkdir(parents=True)
        (folder(tmp_path) / "blobs").write_text("mine")
        assert str(folder(tmp_path) / "blobs") in failure()

    def test_a_cache_that_cannot_be_made_is_named(self, hub: Hub, tmp_path: Path) -> None:
        """Not even root can make a directory below /proc/self."""
        error = run_pull(tmp_path, hub.address, (LARGE,), HF_HUB_CACHE="/proc/self/cache").error
        assert "/proc/self/cache" in error

    def test_a_whole_cache_that_cannot_be_written_serves(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        snapshot = pull({BRANCH: [LARGE]})[BRANCH]
        shutil.rmtree(snapshot.parents[1] / "trees")
        (snapshot.parents[1] / "refs" / "main").unlink()

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        for name in ("mkdir", "unlink", "rename", "replace", "symlink"):
            monkeypatch.setattr(os, name, refuse)
        assert pull({BRANCH: [LARGE]}) == {BRANCH: snapshot}


def test_the_hubs_client_is_loaded_by_questions_only() -> None:
    code = (
        "import sys, istar.cli.models; from istar.models import find, store;"
        "assert find.find_model('tiny').files(print); store.known_models();"
        "sys.exit(bool({'huggingface_hub', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
