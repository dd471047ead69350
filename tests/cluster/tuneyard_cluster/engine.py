"""The Docker engine: an existing one, or one that is installed and started here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tuneyard_cluster import bounded_runc, host
from tuneyard_cluster.settings import Settings
from tuneyard_cluster.shell import Failed, Refused, run, say, step, succeeds, wait_until

# The file remains when dockerd is killed, and dockerd does not start while another process has the PID in it.
CONTAINERD_PID = Path("/var/run/docker/containerd/containerd.pid")


def answers() -> bool:
    return bool(shutil.which("docker")) and succeeds("docker", "info", timeout=30)


def ensure(settings: Settings) -> None:
    """Installs and starts a Docker engine as root if none answers."""
    if answers():
        _restore_runtime()
        return
    if address := os.environ.get("DOCKER_HOST"):
        raise Refused(f"DOCKER_HOST={address} does not answer. Start that engine, or unset DOCKER_HOST.")
    host.check_root("start the Docker engine, which does not answer this user")
    if not shutil.which("dockerd") or not shutil.which("docker"):
        host.install("docker.io", "iptables")
    if Path("/run/systemd/system").is_dir():
        run("systemctl", "start", "docker")
    else:
        _start(settings)
    if not answers():
        raise Failed("the Docker engine does not answer; see `journalctl -u docker`")


def _start(settings: Settings) -> None:
    settings.cache.mkdir(parents=True, exist_ok=True)
    _choose_iptables()
    pid_file, log = settings.cache / "dockerd.pid", settings.cache / "dockerd.log"
    for path, program in ((pid_file, "dockerd"), (CONTAINERD_PID, "containerd")):
        if _program(path) != program:
            path.unlink(missing_ok=True)
    command = ["dockerd", "--pidfile", str(pid_file)]
    mtu = host.default_route_mtu(Path("/proc/net/route").read_text())
    if mtu < 1500:  # larger packets would be lost between a container and the outside
        command += ["--mtu", str(mtu)]
    if missing := host.lacking_capabilities():
        say(f"    this host lacks {', '.join(missing)}: containers run without")
        command += [
            "--add-runtime",
            f"bounded={_install_runtime(settings.cache / 'bounded-runc')}",
            "--default-runtime",
            "bounded",
        ]
    with step("start dockerd"), log.open("ab") as output:
        # The engine runs in its own session, because it outlives this command.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
        up = wait_until(lambda: child.poll() is not None or answers(), 60)
    if not up or child.returncode is not None:
        tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Failed(f"dockerd does not start; the end of {log}:\n  {tail}")


def _choose_iptables() -> None:
    """Chooses the legacy iptables if the kernel has no nftables, which Debian's default needs."""
    nat = ("-w", "-t", "nat", "-nL")
    if not succeeds("iptables", *nat) and succeeds("iptables-legacy", *nat):
        for tool in ("iptables", "ip6tables"):
            run("update-alternatives", "--set", tool, f"/usr/sbin/{tool}-legacy")


def _install_runtime(target: Path) -> Path:
    """Writes the runc wrapper outside the clone, for this interpreter in isolated mode without site packages."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = Path(bounded_runc.__file__).read_text()
    target.write_text(f"#!{os.path.realpath(sys.executable)} -IS\n{source}")
    target.chmod(0o755)
    return target


def _restore_runtime() -> None:
    """Writes the runc wrapper again if a running dockerd uses it and the cache with it was moved."""
    runtime = json.loads(run("docker", "info", "--format", "{{json .Runtimes}}")).get("bounded")
    if runtime and not Path(runtime["path"]).exists():
        _install_runtime(Path(runtime["path"]))


def _program(pid_file: Path) -> str | None:
    """The name of the process whose PID is in the file; None if there is none."""
    try:
        return Path(f"/proc/{int(pid_file.read_text())}/comm").read_text().strip()
    except (OSError, ValueError):
        return None


def stop(settings: Settings) -> None:
    """Stops the dockerd that `ensure` started; any other dockerd keeps running."""
    pid_file = settings.cache / "dockerd.pid"
    if _program(pid_file) != "dockerd":
        return
    with step("stop dockerd"):
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        wait_until(lambda: not pid_file.exists(), 60)


def store() -> Path | None:
    """The engine's data-root if this process can read it and its format is overlay2; None otherwise."""
    info = json.loads(run("docker", "info", "--format", "{{json .}}"))
    root = Path(info["DockerRootDir"])
    readable = os.access(root / "image/overlay2/layerdb", os.R_OK | os.X_OK)
    return root if info["Driver"] == "overlay2" and readable else None


def data_root() -> Path:
    return Path(run("docker", "info", "--format", "{{.DockerRootDir}}"))
