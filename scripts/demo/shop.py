"""The outside world of the demo: a shop's payment, shipping and mail services behind one local HTTP server.

The payment service answers 503 to the first two attempts at every charge. All of them keep to the Idempotency-Key:
the same key gets the same answer and the thing is done once.

usage: shop.py PORT
"""

import hashlib
import json
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

FAILURES_PER_CHARGE = 2

lock = Lock()
attempts = Counter()
done = {}


def charge(body, key):
    attempts[key] += 1
    if attempts[key] <= FAILURES_PER_CHARGE:
        return 503, {"error": "the payment service is overloaded"}
    return 201, {"id": identifier("ch", key), "amount": body["amount"], "currency": body["currency"]}


def ship(body, key):
    if any(line["sku"] == "unicorn" for line in body["lines"]):
        return 409, {"error": "unicorn is out of stock"}
    return 201, {"tracking": identifier("trk", key), "service": body["approval"]["service"]}


def mail(_body, key):
    return 202, {"id": identifier("mail", key)}


def refund(body, key):
    return 201, {"id": identifier("re", key), "charge": body["charge"]}


SERVICES = {"/charges": charge, "/shipments": ship, "/emails": mail, "/refunds": refund}


def identifier(prefix, key):
    """An id that is the same whenever the key is."""
    return f"{prefix}_{hashlib.sha256(key.encode()).hexdigest()[:10]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body go out in two writes; the second must not wait for an acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self):
        """What was done, once each: {path: {idempotency key: answer}}."""
        with lock:
            ledger = {path: {key: answer for (where, key), answer in done.items() if where == path} for path in SERVICES}
        self.answer(200, ledger)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        key = self.headers.get("idempotency-key", "")
        service = SERVICES.get(self.path)
        if not service or not key:
            return self.answer(404 if key else 400, {"error": "no such service" if key else "no Idempotency-Key"})
        with lock:
            if (self.path, key) in done:
                return self.answer(200, done[self.path, key])
            status, answer = service(body, key)
            if status < 300:
                done[self.path, key] = answer
        return self.answer(status, answer)

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
