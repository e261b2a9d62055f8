"""The image that `deploy/image/build` makes: what is in it, that it is the same each time, and that it does its work.

Its containers run with the rights that the chart asks for and not one more: a read-only root, and for the daemon two
capabilities. The real kubelet runs it in the tests of the cluster.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from containers import DAEMON, Container, Image, made_layers

from deploy.image import build, cache, layers, own
from deploy.image.contents import REPOSITORY, SITE, contents, project
from deploy.image.interpreter import own_arch
from deploy.image.layers import Layers
from deploy.image.tree import File
from fixtures.lab import Lab, Node
from fixtures.peers import find
from fixtures.processes import PluginCall
from fixtures.site import wait_until

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

MEGABYTE = 1_000_000
NODES = "nodes: [{name: worker-1, podCIDRs: [10.244.1.0/24], tailnet: {address: 100.64.0.3}}]"
NODE = {"/var/run/netns": Path("/run/netns"), "/host/proc/sys/net": Path("/proc/sys/net")}


@pytest.fixture(scope="module")
def made() -> Layers:
    return made_layers()


@pytest.fixture(scope="module")
def image(made: Layers, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image.of(made, tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Lab(1) as lab:
        yield lab.nodes[0]


class TestArchive:
    def test_each_part_is_what_its_digest_says(self, image: Image) -> None:
        archive = image.archive
        for each in (archive.listed, archive.manifest["config"], *archive.manifest["layers"]):
            content = archive.blob(each)
            assert (each["digest"], each["size"]) == (f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))
        unpacked = [gzip.decompress(archive.blob(each)) for each in archive.manifest["layers"]]
        wanted = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in unpacked]
        assert archive.document["rootfs"]["diff_ids"] == wanted

    def test_it_says_what_it_is(self, image: Image) -> None:
        assert image.archive.listed["annotations"]["io.containerd.image.name"].endswith(f":{project()['version']}")
        assert image.archive.config["Labels"]["org.opencontainers.image.version"] == project()["version"]
        assert image.archive.document["architecture"] == own_arch()

    def test_it_is_small(self, made: Layers) -> None:
        """Compressed. The last is what an upgrade moves."""
        assert len(made.base) + len(made.dependencies) + len(made.ours) < 40 * MEGABYTE
        assert len(made.ours) < 6 * MEGABYTE

    def test_another_build_gives_the_same_bytes(self, made: Layers, tmp_path: Path) -> None:
        """By another process, in other places, with other habits; from the same packages, without a network."""
        (tmp_path / "cache").mkdir()
        (tmp_path / "tmp").mkdir()
        for each in cache.root().glob("*-*"):
            if each.name.startswith(("packages-", "wheels-")):
                (tmp_path / "cache" / each.name).symlink_to(each)
        habits = {"HEADCNI_IMAGE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp"), "TZ": "Asia/Tokyo"}
        command = (sys.executable, "-m", "deploy.image.build", "--loopback", find("plugins", "loopback"))
        subprocess.run(
            ("unshare", "--net", *command, tmp_path / "image.tar"),
            cwd=REPOSITORY,
            env={**os.environ, **habits, "LC_ALL": "C", "PYTHONHASHSEED": "7"},
            umask=0o077,
            check=True,
        )
        assert (tmp_path / "image.tar").read_bytes() == build.packed(made, own_arch())

    def test_the_time_of_the_image_is_the_one_that_is_asked_for(
        self, made: Layers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        assert b'"created": "2023-11-14T22:13:20Z"' in build.packed(made, own_arch())

    def test_an_upgrade_moves_the_last_layer_only(self, made: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
        changed = {**own.sources(), "usr/bin/headcni": File(b"#!/usr/bin/python3\n", executable=True)}
        monkeypatch.setattr(own, "sources", lambda: changed)
        again = layers.make(own_arch(), find("plugins", "loopback"))
        assert (again.base, again.dependencies) == (made.base, made.dependencies)
        assert again.ours != made.ours


class TestFiles:
    def test_nothing_gains_rights_and_only_tmp_is_writable(self, image: Image) -> None:
        everything = [(path, path.lstat()) for path in image.root.rglob("*") if not path.is_symlink()]
        assert [path for path, found in everything if found.st_mode & (stat.S_ISUID | stat.S_ISGID)] == []
        assert [path for path, found in everything if found.st_mode & 0o022] == [image.root / "tmp"]
        assert {(found.st_uid, found.st_gid) for _, found in everything} == {(0, 0)}

    def test_there_is_no_more_to_execute_than_this(self, image: Image) -> None:
        """No shell, no compiler, no pip, no package manager."""
        programs = {str(path.relative_to(image.root)) for path in image.root.rglob("*") if _is_program(path)}
        wanted = {"usr/bin/headcni", "usr/bin/ip", "usr/bin/python3.11", "usr/sbin/nft"}
        assert programs == wanted | {"opt/headcni/plugin/headcni", "opt/headcni/plugin/loopback"}
        modules = {path.name for path in image.root.glob("usr/lib/python3*/*")}
        assert modules & {"pip", "setuptools", "ensurepip", "venv", "distutils", "test", "idlelib"} == set()
        assert (image.root / "usr/lib/python3/dist-packages/reconciler").is_dir()

    def test_no_library_is_missing(self, image: Image) -> None:
        (loader,) = image.root.glob("usr/lib/*/ld-linux*")
        elves = [each for each in image.root.rglob("*") if each != loader and _is_dynamic(each)]
        wanting = [str(each.relative_to(image.root)) for each in elves]
        assert len(wanting) > 50
        for each in wanting:
            command = ("chroot", image.root, f"/{loader.relative_to(image.root)}", "--list", f"/{each}")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, "not found" in done.stdout) == (0, False), (each, done)

    def test_every_source_is_compiled_as_it_stands(self, image: Image) -> None:
        """Nobody compares them later: each start would load what was compiled."""
        sources = [each for each in image.root.rglob("*.py") if not each.is_symlink()]
        assert len(sources) > 1000
        for source in sources:
            code = (source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc").read_bytes()
            assert code[4:8] == b"\1\0\0\0", source
            assert code[8:16] == importlib.util.source_hash(source.read_bytes()), source

    def test_it_names_every_package_and_has_its_licence(self, image: Image) -> None:
        """By this list, known flaws are found."""
        status = (image.root / "var/lib/dpkg/status").read_text()
        named = [line.partition(": ")[2] for line in status.splitlines() if line.startswith("Package: ")]
        assert sorted(named) == sorted(contents().packages)
        assert all(paragraph.count("Version: ") for paragraph in status.strip().split("\n\n"))
        assert [each for each in named if not (image.root / f"usr/share/doc/{each}/copyright").is_file()] == []

    def test_the_dockerfile_gets_the_same(self, made: Layers, image: Image, tmp_path: Path) -> None:
        build.write_folders(made, tmp_path)
        for name in ("base", "dependencies", "ours"):
            for path in (tmp_path / name).rglob("*"):
                there = image.root / path.relative_to(tmp_path / name)
                assert there.lstat().st_mode == path.lstat().st_mode, path
                if path.is_file() and not path.is_symlink():
                    assert there.read_bytes() == path.read_bytes(), path
                    assert there.stat().st_mtime == path.stat().st_mtime, path


def _is_program(path: Path) -> bool:
    """Some modules of Debian's Python, and libraries, may be executed, but do nothing then."""
    is_part = path.suffix == ".py" or ".so" in path.name
    return path.is_file() and not path.is_symlink() and not is_part and bool(path.stat().st_mode & 0o111)


def _is_dynamic(path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or "plugin" in path.parts:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


class TestLife:
    """On a node of a lab, as the DaemonSet has it."""

    @pytest.fixture
    def state(self, tmp_path: Path) -> Path:
        (tmp_path / "state").mkdir()
        return tmp_path / "state"

    def test_it_installs_asks_the_api_and_serves_a_pod(
        self, image: Image, node: Node, state: Path, tmp_path: Path
    ) -> None:
        host = tmp_path / "host"
        host.mkdir()
        mounts = {str(state): state, "/opt/cni/bin": host}
        environment = {"HEADCNI_STATE_DIR": str(state), "HEADCNI_HOST_ROOT": "/host", "NODE_NAME": "node-0"}
        given = ("install", "--plugin=/opt/headcni/plugin/headcni", "--loopback=/opt/headcni/plugin/loopback")
        done = Container(image, node, tmp_path / "install", *given, mounts=mounts, environment=environment).run()
        assert done.returncode == 0, done.stderr
        assert sorted(each.name for each in host.iterdir()) == ["headcni", "headcni-ipam", "loopback"]

        (tmp_path / "kubeconfig").write_text(json.dumps(_kubeconfig(_started(node, "fixtures.kube"))))
        environment["HEADCNI_KUBECONFIG"] = "/kubeconfig"
        mounts |= {**NODE, "/kubeconfig": tmp_path / "kubeconfig"}
        daemon = Container(
            image, node, tmp_path / "daemon", "daemon", "--mesh=none",
            capabilities=DAEMON, mounts=mounts, environment=environment,
        )  # fmt: skip
        healthcheck = image.archive.config["Healthcheck"]["Test"][1:]
        with daemon:
            wait_until(lambda: _is_ready_for(state, "10.0.0.0/24"), 30, daemon.log)
            assert daemon.exec(*healthcheck).returncode == 0
            assert daemon.exec("headcni", "status").returncode == 0

            pod = node.new_pod_netns()
            conf = {"cniVersion": "1.0.0", "name": "net", "type": "headcni", "state_dir": str(state)}
            conf["ipam"] = {"type": "headcni-ipam"}  # type: ignore[assignment]
            command = (str(host / "headcni"),)
            added = PluginCall(node, conf, "ADD", "box", pod.path, command=command).call()
            assert added.code == 0, added.raw.decode() + daemon.log()
            assert added.address.startswith("10.0.0.")
            assert node.ping(added.address)
            assert "masquerade" in daemon.exec("nft", "list", "table", "inet", "headcni").stdout
            assert daemon.exec("headcni", "doctor", "--bundle", "/tmp/all.tar.gz").stderr.count("Traceback") == 0
            assert PluginCall(node, conf, "DEL", "box", pod.path, command=command).call().code == 0
            wait_until(lambda: not node.ping(added.address, timeout=1))
            assert daemon.stop() == 0
        gone = Container(image, node, tmp_path / "health", command=healthcheck).run()
        assert gone.returncode == 1

    def test_every_module_can_be_loaded(self, image: Image, node: Node, tmp_path: Path) -> None:
        """So nothing was dropped that one of ours needs, at whatever time it would."""
        sources = [PurePosixPath(name).relative_to(SITE) for name in own.sources() if name.endswith(".py")]
        names = [".".join(each.with_suffix("").parts).removesuffix(".__init__") for each in sources]
        assert len(names) > 100
        program = "import importlib, sys; [importlib.import_module(each) for each in sys.argv[1:]]"
        done = Container(image, node, tmp_path / "it", *names, command=("python3", "-c", program), user=65532).run()
        assert (done.returncode, done.stderr) == (0, "")

    def test_it_trusts_public_authorities(self, image: Image, node: Node, tmp_path: Path) -> None:
        program = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
        done = Container(image, node, tmp_path / "it", command=("python3", "-c", program), user=65532).run()
        assert int(done.stdout) > 100, done.stderr


class TestApprover:
    """Another program of the same image: without root and without any capability."""

    def test_it_runs_as_anybody(self, image: Image, node: Node, tmp_path: Path) -> None:
        done = Container(image, node, tmp_path / "it", "approver", "--help", user=65532).run()
        assert (done.returncode, done.stderr) == (0, "")
        assert "--headscale-url" in done.stdout

    def test_without_a_key_it_refuses(self, image: Image, node: Node, tmp_path: Path) -> None:
        (tmp_path / "nodes.yaml").write_text(NODES)
        environment = {**os.environ, "HEADCNI_API_KEY": "a.secret"}
        url = _started(node, "fixtures.headscale", "0.26", env=environment)
        given = ("--nodes=/nodes.yaml", f"--headscale-url={url}", "--cluster-cidr=10.244.0.0/16", "--once")
        mounts = {"/nodes.yaml": tmp_path / "nodes.yaml"}
        done = Container(image, node, tmp_path / "it", "approver", *given, user=65532, mounts=mounts).run()
        assert done.returncode == 1
        assert "HEADCNI_API_KEY" in done.stderr


def _started(node: Node, stand_in: str, *arguments: str, **options: Any) -> str:
    """Its URL; it ends with the node."""
    command = (sys.executable, "-m", stand_in, *arguments)
    process = node.popen(*command, cwd=REPOSITORY, stdout=subprocess.PIPE, **options)
    assert process.stdout
    return process.stdout.readline().decode().strip()


def _kubeconfig(url: str) -> dict[str, object]:
    return {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "lab", "user": "someone"}}],
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "someone", "user": {}}],
    }


def _is_ready_for(state: Path, pod_cidr: str) -> bool:
    """Only the API says that it is this one."""
    try:
        status = json.loads((state / "status.json").read_bytes())
    except FileNotFoundError:
        return False
    return status["ready"] and pod_cidr in json.dumps(status["pod_cidrs"])
