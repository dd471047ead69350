"""The replicas of all ModelServers as targets for Prometheus: `python3 discover.py FILE`.

Debian's Prometheus is built without Kubernetes' service discovery.
"""

import json
import ssl
import sys
import time
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PODS = "https://kubernetes.default.svc/api/v1/pods?labelSelector=app.kubernetes.io/name=modelserver"
PORT = 8082

target = Path(sys.argv[1])
trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
while True:
    request = urllib.request.Request(  # noqa: S310
        PODS, headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    )
    with urllib.request.urlopen(request, context=trusted, timeout=10) as answer:  # noqa: S310
        pods = json.load(answer)["items"]
    found = [
        {
            "targets": [f"{pod['status']['podIP']}:{PORT}"],
            "labels": {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]},
        }
        for pod in pods
        if pod["status"].get("podIP")
    ]
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(target)
    time.sleep(2)
