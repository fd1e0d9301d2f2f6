"""Pulling from a Hub on the loopback: whole, resumed, shared, offline."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from huggingface_hub import close_session, constants, hf_hub_download, scan_cache_dir

from hub_server import (
    COMMIT,
    LATER,
    REPO,
    TOKEN,
    Hub,
    blob_of,
    run_pull,
    serving,
    start_pull,
)
from istar.errors import HubError
from istar.models.hub import (
    EVERYTHING,
    RepoRevision,
    cached_snapshot,
    list_files,
    pull,
    remove,
    repair,
    verify,
)

PINNED = RepoRevision(repo=REPO, revision=COMMIT)
LARGE = "big/model.safetensors"
FILES = {
    LARGE: Random(1).randbytes(5_000_000),
    "big/index.json": b'{"weight_map": {}}',
    "big/empty.txt": b"",
    "config.json": b'{"a": 1}',
    "other/not asked for.pth": Random(2).randbytes(100_000),
}
WANTED = ("big/", "config.json")
ASKED = [path for path in FILES if path.startswith("big/") or path == "config.json"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    later = FILES | {"config.json": b'{"a": 2}'}
    with serving(Hub({COMMIT: dict(FILES), LATER: later}, {"main": COMMIT})) as hub:
        yield hub


@pytest.fixture
def here(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process's cache, where `start_pull(tmp_path)` has its own."""
    cache = tmp_path / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield cache
    close_session()


def folder(home: Path) -> Path:
    return home / "hf" / "hub" / "models--someone--model"


def assert_whole(snapshot: Path, files: dict[str, bytes] = FILES) -> None:
    """The files asked for are there, right, and links to blobs named by their hash."""
    for path in ASKED:
        assert (snapshot / path).read_bytes() == files[path], path
        blob = (snapshot / path).resolve()
        assert blob == snapshot.parents[1] / "blobs" / blob_of(path, files[path])
        assert not blob.is_symlink()


def assert_clean(home: Path) -> None:
    """Nothing is left but what belongs to the cache's layout."""
    names = {path.name for path in (folder(home) / "blobs").iterdir()}
    assert names <= {blob_of(path, content) for path, content in FILES.items()}
    assert not list((home / "hf" / "hub" / ".locks").rglob("*.pid"))
    assert not list(folder(home).rglob("*.tmp"))


class TestPull:
    def test_a_pull_has_all_files_in_the_hubs_own_layout(self, hub: Hub, tmp_path: Path) -> None:
        done = run_pull(tmp_path, hub.address)
        assert done.path == folder(tmp_path) / "snapshots" / COMMIT
        assert_whole(done.path)
        assert_clean(tmp_path)
        assert not (done.path / "other").exists()
        assert done.noise == ""

    def test_the_plan_and_the_progress_are_told(self, hub: Hub, tmp_path: Path) -> None:
        done = run_pull(tmp_path, hub.address)
        plan = done.events("PullPlan")
        total = sum(len(FILES[path]) for path in ASKED)
        assert [line["files_total"] for line in plan] == [4]
        assert plan[0]["bytes_total"] == plan[0]["bytes_missing"] == total
        assert {line["path"] for line in done.events("FileDone")} == set(ASKED)
        large = [line["done"] for line in done.events("FileProgress") if line["path"] == LARGE]
        assert large == sorted(large)
        assert large[-1] == len(FILES[LARGE])

    @pytest.mark.parametrize("revision", [COMMIT, "main"])
    def test_a_second_pull_asks_nothing_but_what_a_branch_means(
        self, revision: str, hub: Hub, tmp_path: Path
    ) -> None:
        first = run_pull(tmp_path, hub.address, revision=revision)
        before = len(hub.log)
        second = run_pull(tmp_path, hub.address, revision=revision)
        assert second.path == first.path
        assert [request.path for request in hub.log[before:]] == (
            [] if revision == COMMIT else [f"/api/models/{REPO}/revision/main"]
        )

    def test_the_hubs_client_finds_what_was_pulled(self, hub: Hub, here: Path) -> None:
        snapshot = pull(RepoRevision(repo=REPO), [EVERYTHING])
        before = len(hub.log)
        for path in FILES:
            found = hf_hub_download(
                REPO, path, revision=COMMIT, cache_dir=here, endpoint=hub.address
            )
            assert Path(found) == snapshot / path
        assert len(hub.log) == before
        info = scan_cache_dir(here)
        assert not info.warnings
        (repo,) = info.repos
        assert repo.refs.keys() == {"main"}
        assert repo.nb_files == len(FILES)

    def test_what_the_hubs_client_fetched_is_not_fetched_again(self, hub: Hub, here: Path) -> None:
        hf_hub_download(REPO, LARGE, revision=COMMIT, cache_dir=here)
        hub.log.clear()
        assert_whole(pull(PINNED, WANTED))
        assert not hub.bodies()
        assert verify(PINNED, WANTED) == []

    def test_a_branch_that_moved_is_followed_and_shares_its_blobs(
        self, hub: Hub, here: Path
    ) -> None:
        branch = RepoRevision(repo=REPO)
        first = pull(branch, WANTED)
        hub.branches["main"] = LATER
        hub.log.clear()
        second = pull(branch, WANTED)
        assert (first / "config.json").read_bytes() == b'{"a": 1}'
        assert (second / "config.json").read_bytes() == b'{"a": 2}'
        assert [r.path for r in hub.log if "resolve" in r.path] == [
            f"/{REPO}/resolve/{LATER}/config.json"
        ]
        assert cached_snapshot(branch, WANTED) == second

    def test_a_file_that_nothing_has_is_named(self, hub: Hub, tmp_path: Path) -> None:
        assert "no nonsense/" in run_pull(tmp_path, hub.address, ("nonsense/",)).error
        assert not (folder(tmp_path) / "blobs").exists()

    def test_of_a_directory_only_what_is_ever_read_is_fetched(self, hub: Hub, here: Path) -> None:
        for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"):
            hub.commits[COMMIT][f"big/{name}"] = b"the same weights again"
        snapshot = pull(PINNED, WANTED)
        assert_whole(snapshot)
        assert {path.name for path in (snapshot / "big").iterdir()} == {
            path.removeprefix("big/") for path in ASKED if path.startswith("big/")
        }
        assert verify(PINNED, WANTED) == []
        assert (pull(PINNED, ["big/tf_model.h5"]) / "big/tf_model.h5").is_file()

    def test_a_disk_without_links_holds_the_files_themselves(
        self, hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(1, "no links here")

        monkeypatch.setattr(os, "symlink", refuse)
        snapshot = pull(PINNED, WANTED)
        assert not (snapshot / LARGE).is_symlink()
        assert all((snapshot / path).read_bytes() == FILES[path] for path in ASKED)
        assert verify(PINNED, WANTED) == []
        hub.log.clear()
        assert pull(PINNED, WANTED) == snapshot
        assert not hub.log
        assert remove(PINNED, WANTED) == sum(len(FILES[path]) for path in ASKED)


class TestToken:
    def test_the_token_stays_with_the_hub_and_is_never_shown(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        done = run_pull(tmp_path, hub.address, HF_TOKEN=TOKEN)
        assert_whole(done.path)
        at_hub = [request for request in hub.log if request.host.startswith("127.0.0.1")]
        elsewhere = [request for request in hub.log if request.host.startswith("localhost")]
        assert {request.authorization for request in at_hub} == {f"Bearer {TOKEN}"}
        assert [request.authorization for request in elsewhere] == [None]
        assert TOKEN not in json.dumps(done.lines) + done.noise

    def test_a_token_that_is_none_is_not_shown(self, hub: Hub, tmp_path: Path) -> None:
        for token in ("hf_sëcret", "hf_se\x01cret"):
            error = run_pull(tmp_path, hub.address, HF_TOKEN=token).error
            assert "hf auth login" in error
            assert "cret" not in error
        assert not hub.log

    def test_the_token_file_and_the_cache_of_the_environment_are_used(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        (tmp_path / "my token").write_text(TOKEN)
        done = run_pull(
            tmp_path,
            hub.address,
            HF_TOKEN_PATH=str(tmp_path / "my token"),
            HF_HUB_CACHE=str(tmp_path / "elsewhere"),
        )
        assert done.path.parents[2] == tmp_path / "elsewhere"
        assert_whole(done.path)
        assert hub.log[0].authorization == f"Bearer {TOKEN}"


class TestResume:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    @pytest.mark.parametrize("share", [0.3, 0.8])
    def test_a_stopped_pull_goes_on_where_it_was(
        self, number: signal.Signals, share: float, hub: Hub, tmp_path: Path
    ) -> None:
        reached = int(share * len(FILES[LARGE]))
        hub.faults.pause, hub.faults.pause_after = 0.3, reached
        started = start_pull(tmp_path, hub.address, (LARGE,))
        started.wait_for("FileProgress", done=reached)
        started.process.send_signal(number)
        started.finish()
        assert started.code == (130 if number == signal.SIGINT else -number)
        (part,) = (folder(tmp_path) / "blobs").iterdir()
        kept = part.stat().st_size
        assert part.name == f"{blob_of(LARGE, FILES[LARGE])}.part"
        assert FILES[LARGE].startswith(part.read_bytes())
        assert 0.05 * len(FILES[LARGE]) < kept < len(FILES[LARGE])
        assert not list((folder(tmp_path) / "snapshots").glob("*/*"))
        assert not scan_cache_dir(tmp_path / "hf" / "hub").warnings

        hub.faults.pause = 0
        hub.log.clear()
        again = run_pull(tmp_path, hub.address)
        assert_whole(again.path)
        assert_clean(tmp_path)
        assert [request.range for request in hub.bodies()] == [f"bytes={kept}-"]
        rest = sum(len(FILES[path]) for path in ASKED) - kept
        assert again.events("PullPlan")[0]["bytes_missing"] == rest

    def test_a_cut_line_is_taken_up_again(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults.cuts = [1_000_000, 2_000_000, 0]
        assert_whole(run_pull(tmp_path, hub.address).path)
        assert [request.range for request in hub.bodies()] == [
            None,
            "bytes=1000000-",
            "bytes=3000000-",
            "bytes=3000000-",
        ]

    def test_a_line_that_stays_cut_keeps_what_came(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults.cuts = [2_000_000] + [0] * 9
        error = run_pull(tmp_path, hub.address, (LARGE,)).error
        assert "broke off" in error
        assert "same command again" in error
        hub.faults.cuts = []
        hub.log.clear()
        assert_whole(run_pull(tmp_path, hub.address).path)
        assert [request.range for request in hub.bodies()] == ["bytes=2000000-"]

    def test_a_part_of_another_file_is_noticed_and_replaced(self, hub: Hub, here: Path) -> None:
        part = here / PINNED.folder_name / "blobs" / f"{blob_of(LARGE, FILES[LARGE])}.part"
        for stale in (b"x" * 1000, b"x" * len(FILES[LARGE]), b"x" * (len(FILES[LARGE]) + 1)):
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(stale)
            assert_whole(pull(PINNED, WANTED))
            assert not part.exists()
            remove(PINNED, WANTED)

    def test_a_server_without_ranges_is_served_from_zero(self, hub: Hub, here: Path) -> None:
        hub.faults.cuts = [1_000_000]
        hub.faults.ignore_range = True
        assert_whole(pull(PINNED, WANTED))
        assert len(hub.bodies()) == 2


class TestShared:
    def test_four_pulls_at_once_fetch_each_file_once(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults.pause = 0.03
        pulls = [start_pull(tmp_path, hub.address) for _ in range(4)]
        for one in pulls:
            assert_whole(one.finish().path)
        bodies = [r.path for r in hub.log if "/resolve/" in r.path]
        assert sorted(bodies) == sorted(f"/{REPO}/resolve/{COMMIT}/{p}" for p in ASKED if FILES[p])
        pids = {one.process.pid for one in pulls}
        waits = [(one, line["pid"]) for one in pulls for line in one.events("Waiting")]
        assert len({one.process.pid for one, _ in waits}) >= 3
        assert all(pid in pids - {one.process.pid} for one, pid in waits)
        assert_clean(tmp_path)

    def test_the_lock_of_a_killed_process_blocks_nobody(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults.pause = 0.02
        started = start_pull(tmp_path, hub.address, (LARGE,))
        started.wait_for("FileProgress", done=1)
        waiting = start_pull(tmp_path, hub.address, (LARGE,))
        assert waiting.wait_for("Waiting")["pid"] == started.process.pid
        started.process.kill()
        started.finish()
        assert list((tmp_path / "hf" / "hub" / ".locks").rglob("*.pid"))
        hub.faults.pause = 0
        assert waiting.finish().path
        assert_whole(run_pull(tmp_path, hub.address).path)
        assert_clean(tmp_path)

    def test_the_hubs_client_waits_for_the_same_lock(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults.pause = 0.01
        started = start_pull(tmp_path, hub.address, (LARGE,))
        started.wait_for("FileProgress", done=1)
        fetch = (
            "import sys; from huggingface_hub import hf_hub_download;"
            "print(hf_hub_download(sys.argv[1], sys.argv[2], revision=sys.argv[3]))"
        )
        other = subprocess.run(
            [sys.executable, "-c", fetch, REPO, LARGE, COMMIT],
            env={"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.address, "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert Path(other.stdout.strip()) == started.finish().path / LARGE
        assert len(hub.bodies()) == 1


class TestOffline:
    @pytest.mark.parametrize("revision", [COMMIT, "main"])
    def test_a_full_cache_needs_no_network(self, revision: str, hub: Hub, tmp_path: Path) -> None:
        first = run_pull(tmp_path, hub.address, revision=revision)
        hub.log.clear()
        again = run_pull(tmp_path, hub.address, revision=revision, HF_HUB_OFFLINE="1")
        assert again.path == first.path
        assert again.events("Note") == []
        assert hub.log == []

    def test_a_hole_is_named_at_once(self, hub: Hub, tmp_path: Path) -> None:
        snapshot = run_pull(tmp_path, hub.address).path
        (snapshot / LARGE).resolve().unlink()
        hub.log.clear()
        error = run_pull(tmp_path, hub.address, HF_HUB_OFFLINE="1").error
        assert LARGE in error
        assert "unset HF_HUB_OFFLINE" in error
        assert "index.json" not in error
        assert hub.log == []

    def test_an_empty_cache_is_said_at_once(self, hub: Hub, tmp_path: Path) -> None:
        for revision in (COMMIT, "main"):
            error = run_pull(tmp_path, hub.address, revision=revision, HF_HUB_OFFLINE="1").error
            assert REPO in error
            assert "unset HF_HUB_OFFLINE" in error
        assert hub.log == []

    def test_without_a_network_a_branch_is_what_it_last_was(self, hub: Hub, tmp_path: Path) -> None:
        first = run_pull(tmp_path, hub.address, revision="main")
        hub.branches["main"] = LATER
        began = time.monotonic()
        again = run_pull(tmp_path, "http://127.0.0.1:9", revision="main")
        assert time.monotonic() - began < 20
        assert again.path == first.path
        (note,) = again.events("Note")
        assert "cannot be reached" in str(note["text"])
        assert COMMIT[:12] in str(note["text"])

    def test_a_hub_that_never_answers_is_given_up_soon(self, hub: Hub, tmp_path: Path) -> None:
        first = run_pull(tmp_path, hub.address, revision="main")
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            began = time.monotonic()
            again = run_pull(tmp_path, address, revision="main", HF_HUB_ETAG_TIMEOUT="1")
        assert time.monotonic() - began < 20
        assert again.path == first.path

    def test_the_list_of_a_commit_is_remembered(self, hub: Hub, here: Path) -> None:
        pull(PINNED, ["config.json"])
        hub.log.clear()
        assert cached_snapshot(PINNED, ["config.json"])
        assert cached_snapshot(PINNED, ["big/"]) is None
        pull(PINNED, ["big/"])
        assert [r.path for r in hub.log if "/api/" in r.path] == []
        assert cached_snapshot(PINNED, WANTED)

    def test_a_list_is_asked_for_once_a_commit(
        self, hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        branch = RepoRevision(repo=REPO)
        files = list_files(PINNED)
        assert [(file.path, file.size, file.blob) for file in files] == [
            (path, len(FILES[path]), blob_of(path, FILES[path])) for path in sorted(FILES)
        ]
        hub.log.clear()
        assert list_files(PINNED) == files
        assert not hub.log
        assert list_files(branch) == files
        assert [request.path for request in hub.log] == [f"/api/models/{REPO}/revision/main"]
        pull(branch, ["config.json"])
        hub.faults.status["/api/"] = (503, None)
        assert list_files(branch) == files
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert list_files(branch) == files
        with pytest.raises(HubError, match="unset it"):
            list_files(RepoRevision(repo="someone/else"))

    @pytest.mark.parametrize(
        "record",
        [
            "",
            "[]",
            "{}",
            "[" * 100_000,
            '{"format_version": 1, "files": []}',
            '{"format_version": 1, "files": {"../x": {"size": 1, "blob_id": "%s"}}}' % ("0" * 40),
            '{"format_version": 1, "files": {"x": {"size": -1, "blob_id": "%s"}}}' % ("0" * 40),
            '{"format_version": 1, "files": {"x": null}}',
            '{"format_version": 2, "files": {}}',
        ],
    )
    def test_a_damaged_record_is_fetched_again(self, record: str, hub: Hub, here: Path) -> None:
        snapshot = pull(PINNED, WANTED)
        (place,) = (here / PINNED.folder_name / "trees").iterdir()
        right = place.read_text()
        place.write_text(record)
        assert cached_snapshot(PINNED, WANTED) is None
        assert pull(PINNED, WANTED) == snapshot
        assert place.read_text() == right

    def test_without_a_list_single_files_are_known_and_directories_are_not(
        self, hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for path in ASKED:
            hf_hub_download(REPO, path, revision=COMMIT, cache_dir=here)
        snapshot = here / PINNED.folder_name / "snapshots" / COMMIT
        assert cached_snapshot(PINNED, ASKED) == snapshot
        assert cached_snapshot(PINNED, [*ASKED, "more.txt"]) is None
        assert cached_snapshot(PINNED, ["big/"]) is None
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        told: list[object] = []
        assert pull(PINNED, ["big/"], told.append) == snapshot
        assert len(told) == 1
        assert "cannot be told" in str(told[0])


class TestCare:
    def test_a_whole_cache_has_no_problems(self, hub: Hub, here: Path) -> None:
        pull(PINNED, WANTED)
        hub.log.clear()
        assert verify(PINNED, WANTED) == []
        assert not hub.log

    def test_each_kind_of_damage_is_named_and_repaired(
        self, hub: Hub, here: Path, tmp_path: Path
    ) -> None:
        snapshot = pull(PINNED, WANTED)
        precious = tmp_path / "precious"
        precious.write_bytes(FILES["big/empty.txt"])
        blob = (snapshot / LARGE).resolve()
        content = bytearray(FILES[LARGE])
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
        (snapshot / "big/index.json").resolve().write_bytes(b"{}")
        (snapshot / "big/empty.txt").unlink()
        (snapshot / "big/empty.txt").symlink_to(precious)
        (snapshot / "config.json").unlink()
        problems = verify(PINNED, [*WANTED, "other/"])
        assert {problem.path: problem.kind for problem in problems} == {
            LARGE: "hash",
            "big/index.json": "size",
            "big/empty.txt": "link",
            "config.json": "missing",
            "other/not asked for.pth": "missing",
        }
        assert all(problem.path in problem.text for problem in problems)
        assert cached_snapshot(PINNED, [LARGE]) == snapshot, "a size alone does not tell"

        hub.log.clear()
        assert repair(PINNED, WANTED) == problems[:-1]
        assert not hub.log
        assert precious.exists()
        assert_whole(pull(PINNED, WANTED))
        assert verify(PINNED, WANTED) == []

    def test_a_cut_blob_is_noticed_and_fetched_again(self, hub: Hub, here: Path) -> None:
        blob = (pull(PINNED, WANTED) / LARGE).resolve()
        os.truncate(blob, 1000)
        assert cached_snapshot(PINNED, WANTED) is None
        told: list[object] = []
        assert_whole(pull(PINNED, WANTED, told.append))
        assert any("damaged in the cache" in str(event) for event in told)

    def test_removing_frees_what_nothing_else_uses(self, hub: Hub, here: Path) -> None:
        branch = RepoRevision(repo=REPO)
        pull(branch, WANTED)
        hub.branches["main"] = LATER
        later = pull(branch, WANTED)
        assert remove(PINNED, WANTED) == len(b'{"a": 1}')
        assert_whole(later, FILES | {"config.json": b'{"a": 2}'})
        assert not (later.parent / COMMIT).exists()
        (part := later.parents[1] / "blobs" / f"{blob_of(LARGE, FILES[LARGE])}.part").touch()
        assert remove(branch, ["big/"]) == len(FILES[LARGE]) + len(FILES["big/index.json"])
        assert not part.exists()
        assert cached_snapshot(branch, ["config.json"]) == later
        assert not scan_cache_dir(here).warnings
        assert remove(branch, [EVERYTHING]) == len(b'{"a": 2}')
        assert not (here / branch.folder_name).exists()
