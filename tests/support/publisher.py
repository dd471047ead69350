"""A program that publishes a directory to S3 once for each line of its input, each time in a process of its own.

The process is forked from this one, which has the libraries already. Its id is printed, and then how it has ended.
"""

import os
import sys
from pathlib import Path

from tuneyard_store.artifact import publish_directory
from tuneyard_store.credentials import Credentials
from tuneyard_store.schemes import s3_upload
from tuneyard_store.schemes.s3 import S3Store


def main(folder: str, uri: str, access: str, secret: str, endpoint: str, part_bytes: str) -> None:
    store = S3Store(Credentials(access, secret, None, endpoint, addressing_style="path"))
    vars(s3_upload)["PART_BYTES"] = int(part_bytes)
    _ = store._client  # its description of S3 takes long to load
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                publish_directory(store, Path(folder), uri, "x")
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
