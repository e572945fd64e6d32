#!/bin/sh
# Signs issue.json as GitHub does and delivers it with curl. Prints the answer's body, then its status.
#
#   MESHHOOK_ENDPOINT_SECRET=… ./deliver.sh http://localhost:8080/hooks/…
set -eu
url=${1:?usage: deliver.sh URL}
body=$(dirname "$0")/issue.json
signature=$(openssl dgst -sha256 -hmac "${MESHHOOK_ENDPOINT_SECRET:?set it to what create_endpoint showed}" -r "$body" | cut -d ' ' -f 1)
curl -sS -X POST "$url" -w '\n%{http_code}\n' --data-binary "@$body" \
    -H "content-type: application/json" \
    -H "x-github-event: issues" \
    -H "x-github-delivery: $(openssl rand -hex 16)" \
    -H "x-hub-signature-256: sha256=$signature"
