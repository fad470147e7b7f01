"""Run by `helm test`: is a controller ready, and does the API server serve its kinds?"""

import http.client
import json
import os
import ssl
import sys
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
GROUP = "/apis/pangu-finetune.io/v1alpha1"
SECONDS = 10


def ask(connection: http.client.HTTPConnection, path: str, token: str = "") -> bytes:
    """One answer; ends the check where there is none."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != http.client.OK:
        sys.exit(f"{connection.host}{path}: {answer.status} {text.decode(errors='replace')}")
    return text


controller = http.client.HTTPConnection(os.environ["CONTROLLER"], timeout=SECONDS)
ask(controller, "/readyz")

authority = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
server = http.client.HTTPSConnection("kubernetes.default.svc", timeout=SECONDS, context=authority)
found = json.loads(ask(server, GROUP, (ACCOUNT / "token").read_text()))
missing = {"pangujobs", "panguservices"} - {each["name"] for each in found["resources"]}
if missing:
    sys.exit(f"{GROUP}: {', '.join(sorted(missing))} not served; install with crds.enabled=true")
sys.stdout.write("the controller is ready, PanguJob and PanguService are served\n")
