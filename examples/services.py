"""The outside world of the examples and of the demo: shop, payment, mail, GitHub and the rest behind one local server.

Some of it fails on purpose, always in the same way: the payment service answers 503 to the first two attempts at every
charge, no unicorn can be shipped, customer 7 is not accepted as a contact, the credit agency is down. Everything that
is posted or put keeps to the Idempotency-Key: the same key gets the same answer and the thing is done once.

usage: services.py [PORT]      (8090)
"""

import hashlib
import json
import re
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qs, urlsplit

FAILURES_PER_CHARGE = 2
CUSTOMERS = [{"id": n, "name": f"Customer {n}", "email": f"customer-{n}@example.com"} for n in range(1, 13)]
PAGE = 5

lock = Lock()
attempts = Counter()
done = {}


def made(prefix, *fields):
    """A service that makes something with an id and repeats these fields of what it was sent."""
    return lambda body, key: (201, {"id": identifier(prefix, key), **{field: body[field] for field in fields}})


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


def count(_query):
    return 200, {"customers": len(CUSTOMERS), "pages": -(-len(CUSTOMERS) // PAGE)}


def customers(query):
    first = (int(query["page"]) - 1) * PAGE
    return 200, {"customers": CUSTOMERS[first:first + PAGE]}


POSTS = {
    "/charges": charge, "/shipments": ship, "/emails": mail, "/refunds": made("re", "charge"),
    "/reservations": made("res"), "/releases": made("rel", "reservation"), "/accounts": made("acc", "plan"),
    "/alerts": made("alert"), "/collections": made("case", "invoice"),
    r"/repos/.+/issues/\d+/labels": lambda body, key: (200, [{"name": name} for name in body["labels"]]),
    r"/repos/.+/issues/\d+/comments": made("comment"),
}
PUTS = {
    "/contacts/7": lambda body, key: (422, {"error": "not an address"}),
    r"/contacts/\d+": lambda body, key: (200, body),
}
GETS = {
    "/customers/count": count, "/customers": customers,
    "/companies": lambda query: (200, {"name": query["domain"].split(".")[0].title(), "employees": 12}),
    "/places": lambda query: (200, {"country": "NZ"}),
    "/credit": lambda query: (503, {"error": "the credit agency is down"}),
}


def identifier(prefix, key):
    """An id that is the same whenever the key is."""
    return f"{prefix}_{hashlib.sha256(key.encode()).hexdigest()[:10]}"


def find(services, path):
    """The first service whose pattern is the whole path."""
    return next((service for pattern, service in services.items() if re.fullmatch(pattern, path)), None)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body go out in two writes; the second must not wait for an acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self):
        """At / what was done, once each: {path: {idempotency key: answer}}."""
        url = urlsplit(self.path)
        if url.path == "/":
            ledger = {}
            with lock:
                for (path, key), answer in done.items():
                    ledger.setdefault(path, {})[key] = answer
            return self.answer(200, ledger)
        service = find(GETS, url.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        return self.answer(*(service(query) if service else (404, {"error": "no such service"})))

    def do_POST(self):
        self.do(POSTS)

    def do_PUT(self):
        self.do(PUTS)

    def do(self, services):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        key = self.headers.get("idempotency-key", "")
        service = find(services, self.path)
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
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 8090), Handler).serve_forever()
