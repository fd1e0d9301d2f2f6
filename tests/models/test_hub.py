"""Pulling from a Hub on the loopback: whole, resumed, shared, offline, checked, removed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, scan_cache_dir

from hub_server import (
    COMMIT,
    FILES,
    LARGE,
    LATER,
    PULLS,
    REPO,
    TOKEN,
    WANTED,
    Hub,
    await_journal,
    await_sign,
    blob,
    blob_of,
    folder,
    run_pull,
    start_pull,
)
from istar.errors import HubError
from istar.models import download
from istar.models.hub import cached_files, list_files, pull, remove, verify
from istar.models.repository import RepoRevision

PINNED, BRANCH = RepoRevision(repo=REPO, revision=COMMIT), RepoRevision(repo=REPO)
ASKED = [path for path in FILES if path.startswith("big/") or path == "config.json"]


def pulled(where: RepoRevision = PINNED, wanted: tuple[str, ...] = WANTED) -> Path:
    return pull({where: wanted})[where]


def assert_whole(snapshot: Path, files: dict[str, bytes] = FILES) -> None:
    """The files asked for are there, right, and links to blobs named by their hash."""
    for path in ASKED:
        assert (snapshot / path).read_bytes() == files[path], path
        content = (snapshot / path).resolve()
        assert content == snapshot.parents[1] / "blobs" / blob_of(path, files[path])
    names = {path.name for path in (snapshot.parents[1] / "blobs").iterdir()}
    assert not [name for name in names if "." in name], "nothing else is left"


def ranges(hub: Hub) -> list[tuple[int, int]]:
    """The bytes of the large file that were asked for, in order."""
    asked = [request.range or f"bytes=0-{len(FILES[LARGE]) - 1}" for request in hub.bodies()]
    return sorted(tuple(map(int, text[6:].split("-"))) for text in asked)  # type: ignore[misc]


def test_a_pull_has_all_files_in_the_hubs_own_layout(hub: Hub, tmp_path: Path) -> None:
    done = run_pull(tmp_path, hub.address)
    assert done.path == folder(tmp_path) / "snapshots" / COMMIT
    assert_whole(done.path)
    assert not (done.path / "other").exists()
    # The large file came in four ranges that together are the whole.
    asked = ranges(hub)
    assert len(asked) == 4
    assert [0, *(end + 1 for _, end in asked)] == [
        *(begin for begin, _ in asked),
        len(FILES[LARGE]),
    ]
    (plan,) = done.events("DownloadPlanned")
    assert plan["files_total"] == plan["files_missing"] == 4
    assert plan["bytes_total"] == plan["bytes_missing"] == sum(len(FILES[path]) for path in ASKED)
    heard = [line["done"] for line in done.events("DownloadProgress") if line["path"] == LARGE]
    assert heard == sorted(heard)
    assert heard[-1] == len(FILES[LARGE])


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_a_second_pull_asks_nothing_but_what_a_branch_means(
    revision: str, hub: Hub, cache: Path
) -> None:
    where, heard = RepoRevision(repo=REPO, revision=revision), list[object]()
    first = pulled(where)
    hub.log.clear()
    assert pull({where: WANTED}, heard.append) == {where: first}
    assert heard == []
    asked = [] if revision == COMMIT else [f"/api/models/{REPO}/revision/main"]
    assert [request.path for request in hub.log] == asked


def test_the_hubs_client_finds_what_was_pulled(hub: Hub, cache: Path) -> None:
    snapshot = pulled(BRANCH)
    hub.log.clear()
    for path in ASKED:
        assert Path(hf_hub_download(REPO, path, revision=COMMIT)) == snapshot / path
    assert not hub.log
    info = scan_cache_dir(cache)
    assert not info.warnings
    (repo,) = info.repos
    assert repo.refs.keys() == {"main"}
    assert repo.nb_files == len(ASKED)


def test_what_the_hubs_client_fetched_is_not_fetched_again(hub: Hub, cache: Path) -> None:
    hf_hub_download(REPO, LARGE, revision=COMMIT)
    hub.log.clear()
    assert_whole(pulled())
    assert not hub.bodies()
    assert verify(PINNED, WANTED) == []


def test_a_branch_that_moved_is_followed_and_shares_its_blobs(hub: Hub, cache: Path) -> None:
    first = pulled(BRANCH)
    hub.branches["main"] = LATER
    hub.log.clear()
    second = pulled(BRANCH)
    assert (first / "config.json").read_bytes() == b'{"a": 1}'
    assert (second / "config.json").read_bytes() == b'{"a": 2}'
    bodies = [request.path for request in hub.bodies("resolve")]
    assert bodies == [f"/{REPO}/resolve/{LATER}/config.json"]
    assert cached_files(BRANCH, WANTED).snapshot == second


def test_of_a_directory_only_what_is_ever_read_is_fetched(hub: Hub, cache: Path) -> None:
    for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"):
        hub.commits[COMMIT][f"big/{name}"] = b"the same weights again"
    assert {path.name for path in (pulled() / "big").iterdir()} == {
        path.removeprefix("big/") for path in ASKED if path.startswith("big/")
    }
    assert verify(PINNED, WANTED) == []
    assert (pulled(wanted=("big/tf_model.h5",)) / "big/tf_model.h5").is_file()
    with pytest.raises(HubError, match="no nonsense/"):
        pulled(wanted=("nonsense/",))


def test_a_disk_without_links_holds_the_files_themselves(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    snapshot = pulled()
    assert not (snapshot / LARGE).is_symlink()
    assert all((snapshot / path).read_bytes() == FILES[path] for path in ASKED)
    assert verify(PINNED, WANTED) == []
    hub.log.clear()
    assert pulled() == snapshot
    assert not hub.log
    assert remove(PINNED, WANTED) == sum(len(FILES[path]) for path in ASKED)


class TestToken:
    def test_the_token_stays_with_the_hub_and_is_never_shown(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        (tmp_path / "my token").write_text(TOKEN)
        place = {"HF_TOKEN_PATH": str(tmp_path / "my token"), "HF_HUB_CACHE": str(tmp_path / "x")}
        for environment in ({"HF_TOKEN": TOKEN}, place):
            hub.log.clear()
            done = run_pull(tmp_path, hub.address, **environment)
            assert_whole(done.path)
            elsewhere = [request for request in hub.log if request.host.startswith("localhost")]
            at_hub = [request for request in hub.log if request not in elsewhere]
            assert {request.authorization for request in at_hub} == {f"Bearer {TOKEN}"}
            assert {request.authorization for request in elsewhere} == {None}
            assert TOKEN not in json.dumps(done.lines) + done.noise
        assert done.path.parents[2] == tmp_path / "x"

    def test_a_malformed_token_is_not_shown(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_sëcret")
        with pytest.raises(HubError, match="hf auth login") as caught:
            pulled()
        assert "cret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert not hub.log


class TestResume:
    @pytest.mark.signals
    @pytest.mark.parametrize(
        "number",
        [
            signal.SIGINT,
            pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
            signal.SIGKILL,
        ],
    )
    def test_a_stopped_pull_continues_where_it_was(
        self, number: signal.Signals, hub: Hub, tmp_path: Path
    ) -> None:
        came = 4 * (1 << 19)  # of four ranges half a mebibyte each
        with hub.holding(after=1 << 19):
            started = start_pull(tmp_path, hub.address, (LARGE,))
            started.wait_for("DownloadProgress", done=came)
            if number != signal.SIGINT:  # which leaves time to write a journal
                await_journal(started.process, tmp_path, least=came)
            started.process.send_signal(number)
            started.finish()
        assert started.process.returncode == (130 if number == signal.SIGINT else -number)
        missing = json.loads(blob(tmp_path, ".part.json").read_text())
        there = blob(tmp_path, ".part").read_bytes()
        assert len(there) == len(FILES[LARGE])
        for begin, end in zip(
            [0, *(end for _, end in missing)],
            [*(begin for begin, _ in missing), len(there)],
            strict=True,
        ):
            assert there[begin:end] == FILES[LARGE][begin:end], "what counts as there is there"
        rest = sum(end - begin for begin, end in missing)
        assert rest == len(there) - came
        assert not list((folder(tmp_path) / "snapshots").glob("*/*"))
        assert not scan_cache_dir(tmp_path / "hf" / "hub").warnings

        hub.log.clear()
        again = run_pull(tmp_path, hub.address)
        assert_whole(again.path)
        assert sum(end + 1 - begin for begin, end in ranges(hub)) == rest
        others = sum(len(FILES[path]) for path in ASKED if path != LARGE)
        assert again.events("DownloadPlanned")[0]["bytes_missing"] == rest + others

    def test_a_line_that_breaks_off_is_taken_up_again(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "RANGES_AT_ONCE", 1)
        monkeypatch.setattr(download, "RETRY_SECONDS", 0.01)
        hub.faults.cuts = [1_000_000, 2_000_000, 0]
        assert_whole(pulled())
        assert [begin for begin, _ in ranges(hub)] == [0, 1_000_000, 3_000_000, 3_000_000]

    def test_a_line_that_stays_broken_keeps_what_came(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(download, "RETRY_SECONDS", 0.01)
        hub.faults.cuts = [1_000_000] * 4 + [0] * 99
        with pytest.raises(HubError, match=r"broke off; try again"):
            pulled()
        assert cached_files(PINNED, [LARGE]).bytes_here >= 1_000_000
        hub.faults.cuts = []
        hub.log.clear()
        assert_whole(pulled())
        assert sum(end + 1 - begin for begin, end in ranges(hub)) <= 4_000_000

    def test_a_part_of_another_file_is_noticed_and_replaced(
        self, hub: Hub, cache: Path, tmp_path: Path
    ) -> None:
        size = len(FILES[LARGE])
        for stale, journal in (
            (b"x" * 1000, "[]"),
            (b"x" * size, "[]"),
            (b"x" * (size + 1), "[[0, 5]]"),
            (b"x" * size, "[[0, 5"),
            (b"x" * size, "[5]"),
        ):
            blob(tmp_path).parent.mkdir(parents=True, exist_ok=True)
            blob(tmp_path, ".part").write_bytes(stale)
            blob(tmp_path, ".part.json").write_text(journal)
            assert_whole(pulled())
            remove(PINNED, WANTED)

    @pytest.mark.parametrize("cuts", [[], [1_000_000]])
    def test_a_server_without_ranges_sends_the_whole(
        self, cuts: list[int], hub: Hub, cache: Path
    ) -> None:
        hub.faults.cuts, hub.faults.ignore_range = [9_999_999] * 4 + cuts, True
        assert_whole(pulled())


class TestShared:
    def test_four_pulls_at_once_fetch_each_file_once(self, hub: Hub, tmp_path: Path) -> None:
        with hub.holding(after=1 << 20):
            pulls = [start_pull(tmp_path, hub.address, smallest_range=1 << 30) for _ in range(4)]
            for one in pulls:
                one.wait_for("DownloadProgress", "DownloadWaiting", path=LARGE)
        for one in pulls:
            assert_whole(one.finish().path)
        bodies = sorted(request.path for request in hub.bodies("resolve"))
        assert bodies == sorted(f"/{REPO}/resolve/{COMMIT}/{path}" for path in ASKED if FILES[path])
        waits = [{event["path"] for event in one.events("DownloadWaiting")} for one in pulls]
        assert sum(LARGE in paths for paths in waits) == 3

    @pytest.mark.signals
    def test_the_lock_of_a_killed_process_is_free(self, hub: Hub, tmp_path: Path) -> None:
        with hub.holding(after=1 << 19):
            started = start_pull(tmp_path, hub.address, (LARGE,))
            started.wait_for("DownloadProgress", done=1)
            waiting = [start_pull(tmp_path, hub.address, (LARGE,)) for _ in range(2)]
            for one in waiting:
                assert one.wait_for("DownloadWaiting")["path"] == LARGE
            waiting[1].process.send_signal(signal.SIGINT)
            assert waiting[1].finish().process.returncode == 130
            started.process.kill()
            started.finish()
        assert waiting[0].finish().path

    def test_the_hubs_client_waits_for_the_same_lock(self, hub: Hub, tmp_path: Path) -> None:
        fetch = (
            "import sys; from huggingface_hub import hf_hub_download;"
            "print(hf_hub_download(sys.argv[1], sys.argv[2], revision=sys.argv[3]))"
        )
        with hub.holding(after=1 << 19):
            started = start_pull(tmp_path, hub.address, (LARGE,))
            started.wait_for("DownloadProgress", done=1)
            other = subprocess.Popen(
                [sys.executable, "-c", fetch, REPO, LARGE, COMMIT],
                env={"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.address, "NO_PROXY": "*"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            PULLS.append(other)
            await_sign(other, lambda: any(request.method == "HEAD" for request in hub.log))
        out, err = other.communicate(timeout=60)
        assert other.returncode == 0, err
        assert Path(out.strip()) == started.finish().path / LARGE
        assert sum(end + 1 - begin for begin, end in ranges(hub)) == len(FILES[LARGE])


class TestOffline:
    @pytest.mark.parametrize("revision", [pytest.param(COMMIT, marks=pytest.mark.slow), "main"])
    def test_without_a_network_the_cache_serves_or_says_what_is_missing(
        self, revision: str, hub: Hub, tmp_path: Path
    ) -> None:
        offline = {"revision": revision, "HF_HUB_OFFLINE": "1"}
        error = run_pull(tmp_path, hub.address, **offline).error
        assert REPO in error
        assert "unset HF_HUB_OFFLINE" in error
        first = run_pull(tmp_path, hub.address, revision=revision)
        hub.log.clear()
        again = run_pull(tmp_path, hub.address, **offline)
        assert again.path == first.path
        assert again.events("DownloadNote") == []
        (first.path / LARGE).resolve().unlink()
        error = run_pull(tmp_path, hub.address, **offline).error
        assert LARGE in error
        assert "unset HF_HUB_OFFLINE" in error
        assert "index.json" not in error
        assert hub.log == []

    def test_a_branch_is_what_it_last_was_and_that_is_said(self, hub: Hub, tmp_path: Path) -> None:
        first = run_pull(tmp_path, hub.address, revision="main")
        with socket.create_server(("127.0.0.1", 0)) as silent:
            never = f"http://127.0.0.1:{silent.getsockname()[1]}"
            for address, said in (
                ("http://127.0.0.1:9", "cannot be reached"),
                (never, "broke off"),
            ):
                began = time.monotonic()
                again = run_pull(tmp_path, address, revision="main", HF_HUB_ETAG_TIMEOUT="1")
                assert time.monotonic() - began < 20
                assert again.path == first.path
                (note,) = again.events("DownloadNote")
                assert said in note["text"]
                assert COMMIT[:12] in note["text"]

    def test_a_list_is_asked_for_once_a_commit(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = list_files(PINNED)
        assert [(file.path, file.size, file.blob) for file in files] == [
            (path, len(FILES[path]), blob_of(path, FILES[path])) for path in sorted(FILES)
        ]
        hub.log.clear()
        assert list_files(PINNED) == files
        assert not hub.log
        assert list_files(BRANCH) == files
        pulled(BRANCH, ("config.json",))
        hub.faults.status["/api/"] = (503, None)
        assert list_files(BRANCH) == files
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert list_files(BRANCH) == files
        with pytest.raises(HubError, match="unset HF_HUB_OFFLINE"):
            list_files(RepoRevision(repo="someone/else"))

    def test_a_damaged_record_is_fetched_again(self, hub: Hub, cache: Path) -> None:
        snapshot = pulled()
        (place,) = (cache / "models--someone--model" / "trees").iterdir()
        right = place.read_text()
        for record in (
            "",
            "[]",
            "{}",
            '{"format_version": 1, "files": []}',
            '{"format_version": 1, "files": {"../x": {"size": 1, "blob_id": "%s"}}}' % ("0" * 40),
            '{"format_version": 1, "files": {"x": {"size": -1, "blob_id": "%s"}}}' % ("0" * 40),
            '{"format_version": 1, "files": {"x": null}}',
            '{"format_version": 2, "files": {}}',
        ):
            place.write_text(record)
            assert cached_files(PINNED, WANTED).snapshot is None, record
            assert pulled() == snapshot
            assert place.read_text() == right, record
        (cache / "models--someone--model" / "refs" / "main").parent.mkdir()
        (cache / "models--someone--model" / "refs" / "main").write_text("../../outside")
        assert pulled(BRANCH) == snapshot

    def test_without_a_list_the_cache_serves_only_offline(
        self, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for path in ASKED:
            found = hf_hub_download(REPO, path, revision=COMMIT)
        for record in cache.glob("*/trees/*"):
            record.unlink()
        here = cached_files(PINNED, WANTED)
        assert (here.snapshot, here.bytes_total) == (None, None)
        assert here.bytes_here == sum(len(FILES[path]) for path in ASKED)
        assert verify(PINNED, WANTED) == []
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert pulled() == Path(found).parent
        with pytest.raises(HubError, match="other/ of someone/model is missing"):
            pulled(wanted=("other/",))


class TestVerify:
    def test_damage_is_named_and_repaired_without_a_request(self, hub: Hub, cache: Path) -> None:
        snapshot = pulled()
        hub.log.clear()
        assert verify(PINNED, WANTED) == []
        content = bytearray(FILES[LARGE])
        content[len(content) // 2] ^= 1
        (snapshot / LARGE).resolve().write_bytes(content)
        (snapshot / "big/index.json").resolve().write_bytes(b"{}")
        (snapshot / "config.json").unlink()
        problems = verify(PINNED, [*WANTED, "other/"])
        assert [problem.split(":")[0] for problem in problems] == [
            "config.json is not in the cache",
            "other/not asked for.pth is not in the cache",
            "big/index.json is damaged",
            f"{LARGE} is damaged",
        ]
        assert cached_files(PINNED, [LARGE]).snapshot, "a size alone does not show it"
        assert verify(PINNED, [*WANTED, "other/"], repair=True) == problems
        assert not hub.log
        assert_whole(pulled())
        assert verify(PINNED, WANTED) == []

    def test_a_cut_blob_is_noticed_and_fetched_again(self, hub: Hub, cache: Path) -> None:
        os.truncate((pulled() / LARGE).resolve(), 1000)
        assert cached_files(PINNED, WANTED).snapshot is None
        notes: list[object] = []
        assert_whole(pull({PINNED: WANTED}, notes.append)[PINNED])
        assert any("damaged in the cache" in str(event) for event in notes)

    def test_removing_frees_what_nothing_else_uses(
        self, hub: Hub, cache: Path, tmp_path: Path
    ) -> None:
        pulled(BRANCH)
        hub.branches["main"] = LATER
        later = pulled(BRANCH)
        assert remove(PINNED, WANTED) == len(b'{"a": 1}')
        assert_whole(later, FILES | {"config.json": b'{"a": 2}'})
        assert not (later.parent / COMMIT).exists()
        blob(tmp_path, ".part").touch()
        assert remove(BRANCH, ["big/"]) == len(FILES[LARGE]) + len(FILES["big/index.json"])
        assert not blob(tmp_path, ".part").exists()
        assert cached_files(BRANCH, ["config.json"]).snapshot == later
        assert not scan_cache_dir(cache).warnings
        assert remove(BRANCH, ["config.json"]) == len(b'{"a": 2}')
        assert not folder(tmp_path).exists()
