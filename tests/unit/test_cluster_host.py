"""Settings, refusals and readings of the test cluster that need no docker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneyard_cluster import host
from tuneyard_cluster.cluster import audit_policy, kind_config, mark_of
from tuneyard_cluster.nodeimage import NodeImage
from tuneyard_cluster.rootfs import base_spec
from tuneyard_cluster.selftest import sync_errors
from tuneyard_cluster.settings import AUDIT_LOG, from_environment
from tuneyard_cluster.shell import Failed, Refused, run

ROUTES = "Iface\tDestination\tGateway \tFlags\neth1\t0000A8C0\t00000000\t0001\neth0\t00000000\t010200C0\t0003\n"


@pytest.mark.parametrize(
    ("env", "cache", "kubeconfig"),
    [
        ({"HOME": "/h"}, "/h/.cache/tuneyard", "kubeconfig"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/tuneyard", "kubeconfig"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "TUNEYARD_CACHE": "/t"}, "/t", "kubeconfig"),
        ({"HOME": "/h", "TUNEYARD_CLUSTER": "two"}, "/h/.cache/tuneyard", "kubeconfig-two"),
    ],
)
def test_one_directory_holds_everything(env: dict[str, str], cache: str, kubeconfig: str) -> None:
    settings = from_environment(env)
    assert settings.cache == Path(cache)
    assert settings.kubeconfig == Path(cache) / kubeconfig


def test_mtu_of_the_default_route(tmp_path: Path) -> None:
    (tmp_path / "eth0").mkdir()
    (tmp_path / "eth0/mtu").write_text("1400\n")
    assert host.default_route_mtu(ROUTES, tmp_path) == 1400
    assert host.default_route_mtu(ROUTES.splitlines()[0], tmp_path) == 1500


def test_too_little_disk_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "DISK_GB", 10**9)
    with pytest.raises(Refused, match="docker system prune"):
        host.check_disk(tmp_path / "not" / "yet")


def test_root_is_asked_for_by_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(Refused, match="Root is needed to start the engine"):
        host.check_root("start the engine")


def test_failed_command_shows_the_end_of_its_output() -> None:
    with pytest.raises(Failed, match=r"exit 3\n  line\n  reason"):
        run("sh", "-c", "echo line; echo reason >&2; exit 3")
    with pytest.raises(Failed, match="not found"):
        run("no-such-program")
    with pytest.raises(Failed, match="no end after 0 s"):
        run("sleep", "9", timeout=0.1)


def test_another_image_makes_another_cluster() -> None:
    settings = from_environment({"HOME": "/h"})
    built, public = NodeImage("tuneyard/node:1", built=True), NodeImage("kindest/node:1", built=False)
    images = (built, public, NodeImage("tuneyard/node:2", built=True))
    assert len({mark_of(image, settings) for image in images}) == 3
    assert json.loads(kind_config(built, settings))["networking"]["disableDefaultCNI"] is True
    assert json.loads(kind_config(public, settings))["networking"]["disableDefaultCNI"] is False


@pytest.mark.parametrize("built", [True, False])
def test_audit_files_are_mounted_into_the_api_server(built: bool) -> None:
    settings = from_environment({"HOME": "/h"})
    config = json.loads(kind_config(NodeImage("node:1", built), settings))
    (mount,) = config["nodes"][0]["extraMounts"]
    server = json.loads(config["kubeadmConfigPatches"][0])["apiServer"]
    assert mount["hostPath"] == str(audit_policy(settings))
    assert mount["containerPath"] == server["extraArgs"]["audit-policy-file"]
    assert server["extraArgs"]["audit-log-path"] == str(AUDIT_LOG)
    volumes = {volume["mountPath"] for volume in server["extraVolumes"] if volume["hostPath"] == volume["mountPath"]}
    assert volumes == {str(Path(server["extraArgs"][f"audit-{kind}"]).parent) for kind in ("policy-file", "log-path")}


def test_containers_get_kinds_hook_and_no_limits() -> None:
    spec = json.loads(base_spec('{"process": {"rlimits": [1], "args": ["sh"]}}'))
    assert spec["process"] == {"args": ["sh"]}
    assert [hook["path"] for hook in spec["hooks"]["createContainer"]] == ["/kind/bin/mount-product-files.sh"]


def test_rejected_rule_is_found_in_the_log() -> None:
    log = 'I1124 starting\nE1124 proxier.go:1534] "Failed to execute iptables-restore" err="exit status 2"\nI1124 fine'
    assert len(sync_errors(log)) == 1
    assert sync_errors("I1124 Caches are synced") == []
