#!/bin/sh
# The server alone on port $1, with the settings of peer.json; its database is made if it is missing.
set -e
cd "$(dirname "$0")/../../.."
[ -f "$TRYON_DATA_DIR/tryon.sqlite3" ] || .venv/bin/python -m server migrate
TRYON_PORT=$1 exec .venv/bin/python -m server serve
