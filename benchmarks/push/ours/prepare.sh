#!/bin/sh
# $CHANNELS real sessions through the front door, each taken up as by a worker; and for each of $N connections a line of
# $TARGETS: the WebSocket link with its ticket, and the channel its news is published on.
set -e
links="$BENCH_TMP/ours-links.txt"
"$BENCH_TMP/upload" --port "$PORT" --path /api/tryon/sessions --field image --type image/jpeg \
    --header 'X-Client-Token: bench-0123456789abcdef-0' --file "$BENCH_TMP/tiny.jpg" \
    --count "$CHANNELS" --conns 8 --secs 300 --ids "$links" --id-key '"ws"'
cd "$(dirname "$0")/../../.."
PYTHONPATH=. .venv/bin/python benchmarks/push/ours/claim.py "$links"
head -n "$CHANNELS" "$links" | awk -v n="$N" '
    { split($0, part, "/"); line[NR - 1] = $0 "\ttryon:session:" part[5] }
    END { for (k = 0; k < n; k++) print line[k % NR] }' > "$TARGETS"
