"""Upload a photo and poll its session, with nothing but `requests`.

    python tryon_requests.py http://127.0.0.1:8000 photo.jpg

The package `tryon-client` does this better, over a WebSocket.
"""

import sys
import time
from pathlib import Path
from urllib.parse import urljoin

import requests

server, photo = sys.argv[1:]
answer = requests.post(urljoin(server, "/api/tryon/sessions"), files={"image": Path(photo).read_bytes()}, timeout=60)
answer.raise_for_status()
session = answer.json()
token = {"X-Client-Token": session["client_token"]}
while not session["terminal"]:
    time.sleep(1)
    answer = requests.get(urljoin(server, session["links"]["self"]), headers=token, timeout=60)
    answer.raise_for_status()
    session |= answer.json()
print(session["status"])
