"""Getting a CRIU: what is chosen, what is remembered, what is refused, and the words for each failure."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.agent import small_rank

from ergosphere.agent import apt_fetch, apt_sources, provision, self_test

# hosts that are nobody's
VENDOR, MIRROR, SECURITY, ONE, TWO = "https://vendor", "http://mirror", "http://security", "http://one", "http://two"
OFF = "http://off"
ONE_LINE = f"""
# deb http://commented/debian bookworm main
deb [arch=amd64 signed-by=/k/vendor.gpg] {VENDOR}/apt bookworm main
deb {MIRROR}/debian/ bookworm main contrib # with a remark
deb-src {MIRROR}/debian/ bookworm main
deb {MIRROR}/debian/ bookworm-updates main
deb {SECURITY}/debian-security bookworm-security main
"""
PLAIN = "deb http://mirror/debian bookworm main"
DEB822 = f"""Types: deb deb-src
# a remark
URIs: {ONE}/debian {TWO}/debian
Suites: bookworm bookworm-updates
Components: main
 non-free
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: {OFF}/debian
Suites: bookworm
Components: main

Types: deb
URIs: {VENDOR}/linux
Suites: nodistro
Components: main
Signed-By: /k/vendor.gpg
"""


def apt_folder(tmp_path, **files):
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        stem, _, kind = name.rpartition("_")
        path = tmp_path / "sources.list" if not stem else tmp_path / "sources.list.d" / f"{stem}.{kind}"
        path.write_text(text)
    return tmp_path


def test_the_mirror_is_found_in_one_line_sources_before_third_parties(tmp_path):
    mirrors = apt_sources.debian_mirrors("bookworm", apt_folder(tmp_path, _list=ONE_LINE))
    assert [mirror.uri for mirror in mirrors] == ["http://mirror/debian/", "https://vendor/apt"]
    assert mirrors[1].signed_by == "/k/vendor.gpg"


def test_the_mirror_is_found_in_deb822_sources_with_its_inline_key(tmp_path):
    mirrors = apt_sources.debian_mirrors("bookworm", apt_folder(tmp_path, debian_sources=DEB822))
    assert [mirror.uri for mirror in mirrors] == ["http://one/debian", "http://two/debian"]
    stanza = mirrors[0].stanza("sid")
    assert "Suites: sid\nComponents: main\nSigned-By: \n -----BEGIN PGP" in stanza
    (again,) = apt_sources.deb822(stanza)
    assert again.signed_by == mirrors[0].signed_by


def test_without_a_named_key_debians_own_keyring_is_trusted_and_nothing_else(tmp_path):
    (mirror,) = apt_sources.debian_mirrors("bookworm", apt_folder(tmp_path, _list=PLAIN))
    present = [str(path) for path in apt_sources.ARCHIVE_KEYRINGS if path.exists()]
    assert mirror.signed_by == (present[0] if present else "")
    assert "trusted" not in mirror.stanza("sid").lower()


def test_a_machine_without_sources_has_no_mirror(tmp_path):
    assert apt_sources.debian_mirrors("bookworm", tmp_path / "absent") == ()


@pytest.mark.parametrize(
    ("version", "kernel", "enough"),
    [
        ("4.2", "6.18.44-x", True),
        ("4.2.1", "6.1.0-18-amd64", True),
        ("4.1.1", "6.15.9", True),
        ("4.1.1", "6.16.0", False),
        ("3.17.1", "5.10.0", False),
        ("4.10", "7.0", True),
        ("", "6.1", False),
    ],
)
def test_which_version_is_enough_depends_on_the_kernel(version, kernel, enough):
    assert provision.new_enough(version, kernel) is enough


def test_a_real_criu_passes_the_self_test_and_leaves_nothing(tmp_path):
    before = set(os.listdir("/proc"))
    assert self_test.run(small_rank.tool().argv_prefix) is None
    left = [pid for pid in set(os.listdir("/proc")) - before if pid.isdigit() and b"criu-test" in cwd_of(pid)]
    assert left == []


def cwd_of(pid):
    try:
        return os.fsencode(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return b""


@pytest.mark.parametrize("fake", ["exit 1", "exit 0", "kill -9 $$"])
def test_a_criu_that_does_not_work_fails_the_self_test_with_a_reason(tmp_path, fake):
    path = tmp_path / "criu"
    path.write_text(f"#!/bin/sh\n{fake}\n")
    path.chmod(0o755)
    assert self_test.run([str(path)])


def fake_root(home, monkeypatch):
    """What a download would give, made of the real tool; counts how often it was asked for."""
    real, asked = small_rank.tool(), []

    def build(home, progress, cache):
        asked.append(1)
        progress("building")
        root = home / f"root-{real.version}"
        root.mkdir()
        return provision.CriuTool(real.argv_prefix, real.version, real.nft, root, "a test")

    monkeypatch.setattr(provision, "_from_debian", build)
    return asked


def test_it_is_done_once_however_many_ask_at_the_same_time(tmp_path, monkeypatch):
    asked, tools = fake_root(tmp_path, monkeypatch), []
    ask = lambda: tools.append(provision.provision(tmp_path, prefer_path=False))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(asked) == 1 and len(tools) == 4 and len(set(tools)) == 1
    assert provision.find(tmp_path) == tools[0]


def test_what_is_remembered_is_checked_and_made_anew_when_it_no_longer_answers(tmp_path, monkeypatch):
    asked = fake_root(tmp_path, monkeypatch)
    provision.provision(tmp_path, prefer_path=False)
    marker = tmp_path / provision.MARKER
    kept = json.loads(marker.read_text())
    for damage in ("{", json.dumps(kept | {"version": "9.9"}), json.dumps(kept | {"argv_prefix": ["/absent/criu"]})):
        marker.write_text(damage)
        assert provision.find(tmp_path) is None
        (tmp_path / f"root-{kept['version']}").rmdir()
        (tmp_path / "build-halfway").mkdir()
        provision.provision(tmp_path, prefer_path=False)
        assert not (tmp_path / "build-halfway").exists()
    assert len(asked) == 4


def test_the_criu_on_the_path_is_taken_if_it_is_new_and_works(tmp_path, monkeypatch):
    asked = fake_root(tmp_path, monkeypatch)
    wrapper = tmp_path / "bin" / "criu"
    wrapper.parent.mkdir()
    quoted = " ".join(f"'{word}'" for word in small_rank.tool().argv_prefix)
    wrapper.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(provision, "_which", lambda name: str(wrapper) if name == "criu" else None)
    tool = provision.provision(tmp_path / "home")
    assert (tool.argv_prefix, tool.private_root, tool.nft) == ((str(wrapper),), None, None)
    assert not asked


def test_an_old_criu_on_the_path_is_passed_over_and_that_is_said(tmp_path, monkeypatch):
    fake_root(tmp_path, monkeypatch)
    old = tmp_path / "criu"
    old.write_text("#!/bin/sh\necho Version: 3.17.1\n")
    old.chmod(0o755)
    monkeypatch.setattr(provision, "_which", lambda name: str(old))
    said = []
    assert provision.provision(tmp_path / "home", said.append).origin == "a test"
    assert any("3.17.1" in line and "too old" in line for line in said)


@pytest.mark.parametrize(
    ("complaint", "cause"),
    [
        ("Err:1 http://m sid InRelease\n  Temporary failure resolving 'm'", "cannot be reached"),
        ("W: GPG error: ... NO_PUBKEY 0E98404D386FA1D9", "keyring does not have the key"),
        ("E: The repository 'http://m sid InRelease' is not signed.", "keyring does not have the key"),
        ("E: Failed to fetch x.deb  Hash Sum mismatch", "does not match its signature"),
        ("E: Write error - write (28: No space left on device)", "the disk is full"),
        ("E: Unable to locate package criu", "lacks it"),
        ("E: something new", "apt says: E: something new"),
    ],
)
def test_apts_complaints_are_told_in_plain_words(complaint, cause):
    trouble = apt_fetch.trouble(complaint)
    assert cause in trouble.cause and trouble.remedy


def apt_needed():
    if provision._which("apt-get") is None:
        pytest.skip("no apt here")


def attempt(tmp_path, source):
    """A real apt against a source that must fail; nothing may be left in the folder."""
    apt_needed()
    with pytest.raises(provision.ProvisionError) as refused:
        provision._from_suite(tmp_path, source, "sid", lambda text: None, None)
    assert list(tmp_path.iterdir()) == []
    return refused.value


def test_no_network_is_said_and_nothing_is_left_half_made(tmp_path):
    source = apt_sources.Source("http://127.0.0.1:9/debian", ("bookworm",), ("main",))
    assert "cannot be reached" in attempt(tmp_path, source).cause


def test_packages_without_a_good_signature_are_never_fetched(tmp_path):
    archive = tmp_path / "archive" / "dists" / "sid"
    archive.mkdir(parents=True)
    (archive / "Release").write_text("Suite: sid\nComponents: main\nArchitectures: amd64\n")
    home = tmp_path / "home"
    home.mkdir()
    keyring = next((str(path) for path in apt_sources.ARCHIVE_KEYRINGS if path.exists()), "")
    trouble = attempt(home, apt_sources.Source(f"file:{tmp_path}/archive", ("sid",), ("main",), keyring))
    assert "key" in trouble.cause and "not fetched" in trouble.cause


def test_too_little_room_is_said_before_anything_is_fetched(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], check=True)
    try:
        with pytest.raises(provision.ProvisionError, match="8 MB free"):
            provision._check_room(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_second_home_takes_the_packages_that_the_first_one_fetched(tmp_path, monkeypatch):
    real, said = small_rank.tool(), []
    if real.private_root is None:
        pytest.skip("this machine's own CRIU is no packages")
    content = tmp_path / "content"
    subprocess.run(["cp", "-a", real.private_root, content], check=True)
    (content / "DEBIAN").mkdir()
    (content / "DEBIAN/control").write_text(
        "Package: all\nVersion: 1\nArchitecture: all\nMaintainer: a\nDescription: a\n"
    )
    fetched, cache = [], tmp_path / "cache"

    def fetch(build, *_):
        fetched.append(build)
        subprocess.run(["dpkg-deb", "-Znone", "--build", content, build / "all.deb"], check=True, capture_output=True)
        return [build / "all.deb"]

    monkeypatch.setattr(apt_fetch, "fetch", fetch)
    monkeypatch.setattr(provision, "_mirrors", lambda: (apt_sources.Source("http://nobody", ("sid",), ("main",)),))
    for home in ("one", "two"):
        tool = provision.provision(tmp_path / home, said.append, prefer_path=False, cache=cache)
        assert tool.version == real.version and tool.private_root.parent == tmp_path / home
    assert len(fetched) == 1 and any("fetched before" in text for text in said), said
    (package,) = cache.glob("*.deb")
    package.write_bytes(b"something else")
    provision.provision(tmp_path / "three", said.append, prefer_path=False, cache=cache)
    assert len(fetched) == 2 and any("is not what was put there" in text for text in said), said


def test_another_distribution_is_told_what_to_do(monkeypatch):
    fedora = {"ID": "fedora", "PRETTY_NAME": "Fedora 42"}
    monkeypatch.setattr(provision.platform, "freedesktop_os_release", lambda: fedora)
    with pytest.raises(provision.ProvisionError, match="Fedora 42.*install CRIU 4.2"):
        provision._mirrors()


def test_without_root_it_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(provision.os, "geteuid", lambda: 1000)
    with pytest.raises(provision.ProvisionError, match="root"):
        provision.provision(tmp_path)


def test_the_command_needs_nothing_but_the_standard_library(tmp_path):
    source = Path(provision.__file__).parents[2]
    code = (
        f"import sys; sys.path[:0] = [{str(source)!r}]; import ergosphere.agent.provision; print(sorted(sys.modules))"
    )
    argv = [os.path.realpath(sys.executable), "-E", "-s", "-S", "-c", code]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "site-packages" not in said.stdout and "pydantic" not in said.stdout
