"""A folder as a source."""

import asyncio
import os

import pytest

from ringfeedd.errors import StartError
from ringfeedd.sources import SourceError, open_source


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
        source = await open_source(str(root), emulator=None, concurrency=2)
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
    return use(root, lambda source: source.read(name, generation))


def test_every_file_is_listed_with_its_size_and_can_be_read(folder):
    infos = listed(folder)
    assert len(infos) == 5
    for name, info in infos.items():
        assert info.size == len(name.encode())
        assert info.crc32c is None
        assert read(folder, name, info.generation) == name.encode()


def test_a_prefix_is_one_of_names_and_not_of_folders(folder):
    assert set(listed(folder, "images/")) == {"images/a.jpg", "images/b/c d%#?.jpg", "images/ü.jpg"}
    assert len(listed(folder, "images")) == 4
    assert set(listed(folder, "images/b/c")) == {"images/b/c d%#?.jpg"}
    assert listed(folder, "nothing/here/") == {}
    assert listed(folder, "../set/images/") == {}


def test_more_than_a_page_of_files_is_listed_whole(tmp_path):
    for number in range(2345):
        (tmp_path / f"{number}").touch()

    async def story(source):
        return [len(page) async for page in source.list_pages("")]

    assert use(tmp_path, story) == [1000, 1000, 345]


def test_hidden_files_and_folders_are_no_objects(folder):
    (folder / ".git").mkdir()
    (folder / ".git" / "x.jpg").touch()
    (folder / "images" / ".a.jpg.swp").touch()
    assert len(listed(folder)) == 5
    assert listed(folder, ".git/") == {}


def test_nothing_outside_the_root_is_listed_or_read(folder, tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    (tmp_path / "set2").mkdir()
    (tmp_path / "set2" / "x.jpg").touch()
    (folder / "images" / "link.jpg").symlink_to(secret)
    (folder / "images" / "sibling.jpg").symlink_to(tmp_path / "set2" / "x.jpg")
    (folder / "images" / "up").symlink_to(tmp_path)
    assert len(listed(folder)) == 5
    for name in ("images/link.jpg", "images/sibling.jpg", "images/up/secret.jpg", "../secret.jpg", "a/../../secret.jpg",
                 str(secret)):  # fmt: skip
        with pytest.raises(SourceError, match="outside") as caught:
            read(folder, name)
        assert (caught.value.cause, caught.value.retryable) == ("forbidden", False)


def test_links_within_the_root_count_and_a_loop_of_folders_ends(folder):
    (folder / "images" / "same.jpg").symlink_to(folder / "images" / "a.jpg")
    (folder / "images" / "broken.jpg").symlink_to(folder / "gone.jpg")
    (folder / "images" / "loop").symlink_to(folder)
    infos = listed(folder)
    assert len(infos) == 6
    assert infos["images/same.jpg"].size == len("images/a.jpg")


def test_a_root_that_is_a_link_itself_is_fine(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(listed(tmp_path / "link", "images/")) == 3
    assert read(tmp_path / "link", "images/a.jpg") == b"images/a.jpg"


def test_a_fifo_is_no_object_and_opening_one_hangs_nobody(folder):
    os.mkfifo(folder / "images" / "pipe.jpg")
    assert len(listed(folder)) == 5
    with pytest.raises(SourceError, match="no regular file"):
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
def test_a_root_that_is_no_folder_is_one_sentence(folder, root, says):
    with pytest.raises(StartError, match=says):
        listed(root.format(folder))


def test_a_file_url_is_unquoted(folder):
    (folder / "with space").mkdir()
    (folder / "with space" / "x").touch()
    assert set(listed(f"file://{folder}/with%20space")) == {"x"}
