"""`python tests/helpers/upload.py FOLDER...`: make the bucket `chips` and upload folders. The environment names the
server, and this waits until it answers."""

import sys
import time
from pathlib import Path

import boto3
from botocore.exceptions import EndpointConnectionError


def main() -> None:
    client = boto3.client("s3")
    while True:
        try:
            client.create_bucket(Bucket="chips")
            break
        except EndpointConnectionError:
            time.sleep(0.1)
    for folder in map(Path, sys.argv[1:]):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), "chips", f"{folder.name}/{path.relative_to(folder)}")


if __name__ == "__main__":
    main()
