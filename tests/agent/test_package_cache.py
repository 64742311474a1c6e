"""What is kept for other homes is used only where nobody else could have changed it."""

import json
import os

import pytest

from ergosphere.agent import package_cache
from ergosphere.agent.package_cache import Distrusted


@pytest.fixture
def cache(tmp_path):
    """Two packages, kept."""
    made = tmp_path / "cache"
    package_cache.keep(made, "sid", [written(tmp_path / "criu_4.2-1_amd64.deb"), written(tmp_path / "libc6_2.deb")])
    return made


def written(path):
    path.write_text(f"this is {path.name}")
    return path


def test_what_was_kept_comes_back_byte_for_byte_and_only_for_us(cache, tmp_path):
    kept = package_cache.recall(cache, tmp_path / "into")
    assert kept.suite == "sid"
    assert [(one.name, one.read_text()) for one in kept.packages] == [
        (name, f"this is {name}") for name in ("criu_4.2-1_amd64.deb", "libc6_2.deb")
    ]
    assert {path.stat().st_mode & 0o77 for path in (cache, *cache.glob("*.deb"), *cache.glob("*.json"))} == {0}


def test_newer_packages_take_the_place_of_older_ones(cache, tmp_path):
    package_cache.keep(cache, "trixie", [written(tmp_path / "criu_4.3.deb")])
    assert sorted(path.name for path in cache.iterdir()) == ["criu_4.3.deb", "lock", "packages.json"]
    assert package_cache.recall(cache, tmp_path / "into").suite == "trixie"


def test_nothing_is_kept_at_first(tmp_path):
    assert package_cache.recall(tmp_path / "cache", tmp_path / "into") is None
    (tmp_path / "cache").mkdir(mode=0o700)
    assert package_cache.recall(tmp_path / "cache", tmp_path / "into") is None


def changed(cache):
    (cache / "libc6_2.deb").write_text("this is another")


def open_to_the_group(cache):
    (cache / "libc6_2.deb").chmod(0o620)


def of_another_user(cache):
    os.chown(cache / "libc6_2.deb", 65534, 65534)


def behind_a_link(cache):
    (cache / "libc6_2.deb").rename(cache / "real")
    (cache / "libc6_2.deb").symlink_to(cache / "real")


def folder_open_to_all(cache):
    cache.chmod(0o1777)


def folder_of_another_user(cache):
    os.chown(cache, 65534, 65534)


def folder_before_it_open_to_all(cache):
    cache.parent.chmod(0o777)


def folder_behind_a_link(cache):
    cache.rename(cache.with_name("real"))
    cache.symlink_to(cache.with_name("real"))


def record_names_another_place(cache):
    record = json.loads((cache / "packages.json").read_text())
    (cache / "packages.json").write_text(json.dumps(record | {"packages": {"../cache/libc6_2.deb": "00"}}))


def record_of_another_user(cache):
    os.chown(cache / "packages.json", 65534, 65534)


def record_cut(cache):
    (cache / "packages.json").write_text("{")


def record_with_a_list(cache):
    record = json.loads((cache / "packages.json").read_text())
    (cache / "packages.json").write_text(json.dumps(record | {"packages": list(record["packages"])}))


@pytest.mark.parametrize(
    "harm",
    [changed, open_to_the_group, of_another_user, behind_a_link, folder_open_to_all, folder_of_another_user]
    + [folder_before_it_open_to_all, folder_behind_a_link, record_names_another_place, record_of_another_user]
    + [record_cut, record_with_a_list],
)
def test_what_another_could_have_changed_is_not_used(cache, tmp_path, harm):
    harm(cache)
    with pytest.raises((Distrusted, OSError)):
        package_cache.recall(cache, tmp_path / "into")
