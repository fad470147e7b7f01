"""What an address means, without opening it."""

import pytest

from pangu_core.remote import address


@pytest.mark.parametrize(
    ("url", "folder", "rest"),
    [
        ("s3://b/weights/old", "s3://b/weights", "old"),
        ("s3://b/weights/old/", "s3://b/weights", "old"),
        ("s3://b/corpus/*.txt", "s3://b/corpus", "*.txt"),
        ("s3://b/c/20??/[ab]/*.txt", "s3://b/c", "20??/[ab]/*.txt"),
        ("s3://b/**", "s3://b", "**"),
        ("https://h/a/b.ckpt", "https://h/a", "b.ckpt"),
        ("https://h/a%20b.txt?sign=x/y*", "https://h", "a b.txt"),
    ],
)
def test_an_address_is_a_folder_and_what_follows(url, folder, rest):
    assert address.split(url) == (folder, rest)
    assert address.is_whole(url)


@pytest.mark.parametrize(
    "url",
    ["s3://b", "s3://", "https://h/", "s3://b/..", "s3://b/../c/x", "https://h/%2e%2e", "s3:///k"],
)
def test_an_address_that_names_nothing_or_climbs_is_not_whole(url):
    assert not address.is_whole(url)


def test_wildcards_are_for_stores_and_not_for_the_web():
    assert address.has_wildcards("s3://b/*.txt")
    assert not address.has_wildcards("https://h/x?a=*")


def test_users_and_queries_are_not_shown():
    assert address.shown("https://u:p@h/x?X-Amz-Signature=1") == "https://h/x"
    assert address.shown("s3://b/what?.txt") == "s3://b/what?.txt"
