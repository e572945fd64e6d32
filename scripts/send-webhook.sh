#!/usr/bin/env bash
# Signs a body as https://www.standardwebhooks.com describes and posts it with curl.
#
#   MESHHOOK_ENDPOINT_SECRET=whsec_… scripts/send-webhook.sh URL [FILE]      (no FILE: standard input)
#
# WEBHOOK_ID repeats a delivery under the id it had; SHOW_COMMAND=1 prints the curl command. Prints the answer's body,
# then its status.
set -euo pipefail

url=${1:?usage: send-webhook.sh URL [FILE]}
secret=${MESHHOOK_ENDPOINT_SECRET:?set it to the secret that create_endpoint showed}
body=$(mktemp)
trap 'rm -f "$body"' EXIT
cat "${2:--}" >"$body"

id=${WEBHOOK_ID:-msg_$(openssl rand -hex 12)}
timestamp=$(date +%s)
key=$(printf %s "${secret#whsec_}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
signature=$({ printf '%s.%s.' "$id" "$timestamp"; cat "$body"; } |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64 -w 0)

headers=("content-type: application/json" "webhook-id: $id" "webhook-timestamp: $timestamp"
    "webhook-signature: v1,$signature")
if [ -n "${SHOW_COMMAND:-}" ]; then
    {
        printf 'curl -X POST %s' "$url"
        printf ' \\\n     -H "%s"' "${headers[@]}"
        printf ' \\\n     --data-binary @%s\n' "${2:--}"
    } >&2
fi
curl -sS -X POST "$url" "${headers[@]/#/-H}" --data-binary "@$body" -w '\n%{http_code}\n'
