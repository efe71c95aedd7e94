"""Follow a session over a WebSocket, with nothing but `websockets`.

python tryon_websockets.py ws://127.0.0.1:8000/api/tryon/sessions/<id>/ws?ticket=<ticket>
"""

import sys

from websockets.sync.client import connect

with connect(sys.argv[1], subprotocols=["tryon.v1"]) as socket:
    for frame in socket:
        print(frame)
