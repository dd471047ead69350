"""Upload and verified download of an artifact beside aws and rclone: python -m bench.transfers FOLDER --aws PROGRAM

The store is versitygw on loopback, on the same disk. The programs take turns, in another order each round.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Final, NamedTuple

from bench.figures import seconds, table
from bench.measured import Measured, medians, run
from contract.s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, plain_versitygw, rclone_binary

FILES: Final = 4
BLOCK: Final = 2**20
OURS: Final = """
import sys
from pathlib import Path
from tuneyard_store.artifact import fetch_directory, publish_directory
from tuneyard_store.credentials import Credentials
from tuneyard_store.schemes import open_store
way, folder, uri, access, secret, endpoint = sys.argv[1:]
store = open_store(Credentials(access, secret, None, endpoint, addressing_style="path"))
if way == "up":
    publish_directory(store, Path(folder), uri, "bf16")
else:
    fetch_directory(store, uri, Path(folder))
"""


class Server(NamedTuple):
    """The store, without TLS."""

    port: int
    data: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Programs:
    """Command lines that copy a directory to the store, or back."""

    def __init__(self, server: Server, aws: str) -> None:
        self._server, self._aws = server, aws
        self.env = os.environ | {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def tuneyard(self, way: str, folder: Path) -> list[str]:
        keys = [ACCESS_KEY, SECRET_KEY, self._server.endpoint]
        return [sys.executable, "-c", OURS, way, str(folder), f"s3://{BUCKET}/tuneyard", *keys]

    def aws(self, way: str, folder: Path) -> list[str]:
        copy = [self._aws, "--endpoint-url", self._server.endpoint, "s3", "cp", "--recursive", "--only-show-errors"]
        return [*copy, *directed(way, str(folder), f"s3://{BUCKET}/aws")]

    def rclone(self, way: str, folder: Path) -> list[str]:
        remote = f":s3,provider=Other,env_auth=true,endpoint='{self._server.endpoint}',force_path_style=true:{BUCKET}"
        copy = [rclone_binary(), "copy", "--config", os.devnull, "--quiet", "--s3-no-check-bucket", "--ignore-times"]
        return [*copy, *directed(way, str(folder), f"{remote}/rclone")]


def directed(way: str, folder: str, remote: str) -> tuple[str, str]:
    return (folder, remote) if way == "up" else (remote, folder)


def write_artifact(folder: Path, megabytes: int) -> None:
    """Random bytes in files of the same size."""
    folder.mkdir(parents=True)
    for number in range(FILES):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            for _ in range(megabytes * 10**6 // FILES // BLOCK):
                file.write(os.urandom(BLOCK))


def measure(programs: Programs, server: Server, folder: Path, rounds: int) -> dict[tuple[str, str], list[Measured]]:
    """The runs by direction and program."""
    contenders = {"tuneyard": programs.tuneyard, "aws": programs.aws, "rclone": programs.rclone}
    found: dict[tuple[str, str], list[Measured]] = {(way, name): [] for way in ("up", "down") for name in contenders}
    for number in range(rounds):
        order = list(contenders)[:: -1 if number % 2 else 1]
        for name in order:
            found["up", name].append(run(contenders[name]("up", folder / "artifact"), programs.env))
            found["down", name].append(run(contenders[name]("down", folder / "back"), programs.env))
            print(f"round {number + 1}: {name}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            shutil.rmtree(folder / "back")
            shutil.rmtree(server.data / BUCKET / name)
    return found


def report(found: dict[tuple[str, str], list[Measured]], size: int) -> str:
    rows = [["", "program", "MB/s", "wall, each round", "CPU", "memory"]]
    for (way, name), runs in found.items():
        middle = medians(runs)
        each = " ".join(f"{item.wall_seconds:.1f}" for item in runs)
        speed, memory = f"{size / 1e6 / middle.wall_seconds:.0f}", f"{middle.peak_mib:.0f} MiB"
        rows.append([way, name, speed, f"{each} s", seconds(middle.cpu_seconds), memory])
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="An empty directory with room for three times the artifact.")
    parser.add_argument("--aws", default="aws", help="The program of the package awscli.")
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    folder: Path = given.folder
    write_artifact(folder / "artifact", given.megabytes)
    size = sum(path.stat().st_size for path in (folder / "artifact").iterdir())
    with plain_versitygw(folder / "s3") as port:
        server = Server(port, folder / "s3" / "data")
        found = measure(Programs(server, given.aws), server, folder, given.rounds)
    print(report(found, size))


if __name__ == "__main__":
    main()
