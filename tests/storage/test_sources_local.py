"""A folder as a source."""

import asyncio
import errno
import os
import socket

import pytest

from ringfeedd.catalog.listing import build_catalog
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.errors import DaemonError, StartError
from ringfeedd.fakegcs import FakeGcs
from ringfeedd.storage import Kind, Skipped, SourceError, StoreSettings, open_source
from ringfeedd.storage.base import read as read_object


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    for name in ["images/a.jpg", "images/b/c d%#?.jpg", "images/ü.jpg", "labels/a.png", "imagesque/x.jpg"]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def use(root, story):
    async def main():
        source = await open_source(str(root), StoreSettings(concurrency=2))
        try:
            return await story(source)
        finally:
            await source.close()

    return asyncio.run(main())


def listed(root, prefix=""):
    async def story(source):
        return {info.name: info async for page in source.list_pages(prefix) for info in page}

    return use(root, story)


def read(root, name, generation=0):
    return use(root, lambda source: read_object(source, name, generation))


def test_every_file_is_listed_with_size_and_readable(folder):
    infos = listed(folder)
    assert len(infos) == 5
    for name, info in infos.items():
        assert info.size == len(name.encode())
        assert info.crc32c is None
        assert read(folder, name, info.generation) == name.encode()


def test_a_prefix_is_of_names_and_not_folders(folder):
    assert set(listed(folder, "images/")) == {"images/a.jpg", "images/b/c d%#?.jpg", "images/ü.jpg"}
    assert len(listed(folder, "images")) == 4
    assert set(listed(folder, "images/b/c")) == {"images/b/c d%#?.jpg"}
    assert listed(folder, "nothing/here/") == {}
    assert listed(folder, "../set/images/") == {}


def test_more_than_a_page_of_files_is_listed(tmp_path):
    for number in range(2345):
        (tmp_path / f"{number}").touch()

    async def story(source):
        return [len(page) async for page in source.list_pages("")]

    assert use(tmp_path, story) == [1000, 1000, 345]


def skipped(root, prefix="", given=()):
    """The names that a listing keeps, and how many it leaves out by kind."""
    left_out = Skipped(given or [prefix])

    async def story(source):
        return [info.name async for page in source.list_pages(prefix, left_out) for info in page]

    return sorted(use(root, story)), dict(left_out.counts), left_out


HIDDEN = ["images/._a.jpg", "images/.DS_Store", "__MACOSX/images/a.jpg", "images/.ipynb_checkpoints/a-checkpoint.jpg",
          "images/@eaDir/a.jpg/SYNOPHOTO.jpg", "images/Thumbs.db", "images/thumbs.db", "images/.a.jpg.swp",
          ".git/objects/a", ".git/objects/b", "images/b/desktop.ini"]  # fmt: skip


def make(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_folders_and_buckets_hide_the_same_names(folder):
    make(folder, HIDDEN)
    kept, counts, left_out = skipped(folder)
    objects = {f"p/{name}": name.encode() for name in [*kept, *HIDDEN]}
    of_bucket = Skipped()

    async def list_bucket():
        async with FakeGcs({"b": objects}) as server:
            source = await open_source("gs://b/p", StoreSettings(emulator=server.url, concurrency=1))
            try:
                return [info.name async for page in source.list_pages("", of_bucket) for info in page]
            finally:
                await source.close()

    assert sorted(asyncio.run(list_bucket())) == kept == sorted(listed(folder))
    assert len(kept) == 5
    assert of_bucket.counts == counts == {Kind.HIDDEN: 10}, "a folder counts once"
    assert set(left_out.names[Kind.HIDDEN]) <= {*HIDDEN, ".git/", "images/.ipynb_checkpoints/", "images/@eaDir/",
                                                 "__MACOSX/"}  # fmt: skip


def test_what_the_operator_names_is_not_hidden(folder):
    make(folder, [".masks/a.png", ".masks/.b.png", "images/.c.jpg"])
    assert skipped(folder, ".masks/")[:2] == ([".masks/a.png"], {Kind.HIDDEN: 1})
    kept, counts, _ = skipped(folder, "", ["images/", ".masks/"])
    assert ".masks/a.png" in kept
    assert counts == {Kind.HIDDEN: 2}
    assert skipped(folder, "images/.")[0] == ["images/.c.jpg"]


def test_folder_markers_of_a_bucket_are_no_objects():
    rule = Skipped(["images/"])
    assert [name for name in ("images/", "images/a/", "images/a_$folder$", "images/a") if rule.takes(name)] == [
        "images/a"
    ]
    assert rule.counts == {Kind.MARKER: 3}


def test_links_are_followed_wherever_they_lead(folder, tmp_path):
    store = tmp_path / "store"
    make(store, ["day2/x.jpg", "y.jpg"])
    (folder / "images" / "day2").symlink_to(store / "day2")
    (folder / "images" / "y.jpg").symlink_to(store / "y.jpg")
    (folder / "images" / "same.jpg").symlink_to("a.jpg")
    (folder / "images" / "again").symlink_to(store / "day2")
    (folder / "more").symlink_to(folder / "images" / "b")
    infos = listed(folder)
    new = {"images/day2/x.jpg", "images/y.jpg", "images/same.jpg", "images/again/x.jpg", "more/c d%#?.jpg"}
    assert set(infos) > new
    assert len(infos) == 5 + len(new)
    for name, content in (("images/day2/x.jpg", b"day2/x.jpg"), ("images/y.jpg", b"y.jpg")):
        assert read(folder, name, infos[name].generation) == content
    assert set(listed(folder, "images/day2/")) == {"images/day2/x.jpg"}


def test_linked_folders_are_listed_by_prefix(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "images").symlink_to(folder / "images")
    assert set(listed(linked, "images/")) == {"images/a.jpg", "images/b/c d%#?.jpg", "images/ü.jpg"}


def test_links_in_circles_end_and_are_counted(folder, tmp_path):
    (folder / "images" / "up").symlink_to(folder)
    (folder / "images" / "b" / "self").symlink_to(".")
    other = tmp_path / "other"
    make(other, ["z.jpg"])
    (folder / "other").symlink_to(other)
    (other / "back").symlink_to(folder / "images")  # not above it yet: it is walked once, and `up` in it is not
    (folder / "ring.jpg").symlink_to("ring.jpg")
    kept, counts, _ = skipped(folder)
    assert len(kept) == 5 + 1 + 3
    assert counts == {Kind.LOOP: 4, Kind.BROKEN: 1}


def test_what_is_no_readable_file_is_counted(folder):
    (folder / "images" / "broken.jpg").symlink_to(folder / "gone.jpg")
    (folder / "gone").symlink_to("/nowhere/at/all")
    os.mkfifo(folder / "images" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "images" / "s.jpg"))
        kept, counts, left_out = skipped(folder)
    assert len(kept) == 5
    assert counts == {Kind.BROKEN: 2, Kind.SPECIAL: 2}
    assert sorted(left_out.names[Kind.SPECIAL]) == ["images/pipe.jpg", "images/s.jpg"]
    assert skipped(folder, "gone/x/")[:2] == ([], {Kind.BROKEN: 1})


def test_what_this_user_may_not_read_is_counted(folder, monkeypatch):
    """Root may read anything, so the kernel's refusals are played."""
    (folder / "images" / "a.jpg").chmod(0o600)
    scandir, access = os.scandir, os.access

    def refuse(path):
        if str(path).endswith("images/b"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith("a.jpg") and access(path, mode))
    kept, counts, left_out = skipped(folder)
    assert kept == ["images/ü.jpg", "imagesque/x.jpg", "labels/a.png"]
    assert counts == {Kind.UNREADABLE: 2}
    assert set(left_out.names[Kind.UNREADABLE]) == {"images/a.jpg", "images/b/"}
    with pytest.raises(SourceError, match=r"The folder images/b under .* cannot be listed: Permission denied"):
        skipped(folder, "images/b/")


def catalog_of(root):
    return use(root, lambda source: build_catalog(source, KeyTemplates.parse()))


def test_the_listing_reports_what_it_passed_over(folder):
    make(folder, ["images/._a.jpg", "labels/.DS_Store", "labels/readme.txt"])
    (folder / "labels" / "gone.png").symlink_to("/nowhere")
    assert catalog_of(folder).incomplete.sentences()[-3:] == [
        "skipped hidden files and folders, and those of other programs: 2 (images/._a.jpg, labels/.DS_Store)",
        "skipped links that lead nowhere: 1 (labels/gone.png)",
        "skipped objects that fit neither template: 1 (labels/readme.txt)",
    ]


def test_a_root_of_broken_links_says_so(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).symlink_to("/nowhere")
    with pytest.raises(
        StartError, match=r"nothing in it that can be served\. Skipped links that lead nowhere: 2 \(images, labels\)"
    ):
        catalog_of(tmp_path)


def test_only_names_of_a_listing_are_read(folder, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    for name in ("../secret.jpg", "a/../../secret.jpg", str(tmp_path / "secret.jpg")):
        with pytest.raises(SourceError, match="outside") as caught:
            read(folder, name)
        assert (caught.value.cause, caught.value.retryable) == ("forbidden", False)


def test_a_root_may_be_a_link_itself(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(listed(tmp_path / "link", "images/")) == 3
    assert read(tmp_path / "link", "images/a.jpg") == b"images/a.jpg"


def test_a_fifo_is_no_object_and_hangs_nothing(folder):
    os.mkfifo(folder / "images" / "pipe.jpg")
    assert len(listed(folder)) == 5
    with pytest.raises(SourceError, match="not a regular file"):
        read(folder, "images/pipe.jpg")


def test_a_file_rewritten_after_the_listing_is_refused(folder):
    info = listed(folder)["images/a.jpg"]
    os.utime(folder / "images" / "a.jpg", ns=(1, info.generation + 1))
    with pytest.raises(SourceError, match="was changed since it was listed") as caught:
        read(folder, "images/a.jpg", info.generation)
    assert (caught.value.cause, caught.value.retryable) == ("changed", False)


def test_a_file_that_went_away_is_missing(folder):
    with pytest.raises(SourceError, match=r"images/x.jpg .* cannot be read") as caught:
        read(folder, "images/x.jpg")
    assert (caught.value.cause, caught.value.retryable) == ("missing", False)


@pytest.mark.parametrize(
    ("root", "says"),
    [("{}/nowhere", "There is no folder"), ("{}/images/a.jpg", "is a file"), ("file://host/x", "another machine")],
)
def test_a_root_must_be_a_folder_or_bucket(folder, root, says):
    """Else the error is one sentence."""
    with pytest.raises(DaemonError, match=says):
        listed(root.format(folder))


def test_a_file_url_is_unquoted(folder):
    (folder / "with space").mkdir()
    (folder / "with space" / "x").touch()
    assert set(listed(f"file://{folder}/with%20space")) == {"x"}
