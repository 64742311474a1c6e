"""An HTTP server that reads handwritten digits.

    python serve.py --port 8000
    curl -d '{"index": 12}' localhost:8000/predict
    curl localhost:8000/quit

POST /predict takes {"pixels": [64 numbers from 0 to 16]} or {"index": 0..1796} (an image of scikit-learn's set).
What is answered depends on the order of the requests alone. The last line is the digest of all answers, which are
also in answers.jsonl in the current directory. With --requests N it is its own client: a second process asks N times
over one connection, checks that nothing was lost, and ends the server.
"""

import argparse
import hashlib
import http.client
import json
import multiprocessing
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from sklearn.datasets import load_digits
from torch import nn

NOT_FOUND = b'{"error": "there are /predict, /healthz and /quit"}\n'
PACE_S = 0.01  # the client's pause between two requests


def load():
    digits = load_digits()
    return torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)


def train(images, labels, steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images / 16), labels)
        loss.backward()
        optimizer.step()
    print(f"trained {steps} steps, loss {loss.item()!r}", flush=True)
    return model.eval()


class Oracle:
    """Answers one request after the other, and keeps the count and the digest of what it answered."""

    def __init__(self, model, images, out):
        self.model, self.images, self.out = model, images, out
        self.lock = threading.Lock()
        self.count = 0
        self.sha = hashlib.sha256()

    def answer(self, question):
        if "index" in question:
            pixels = self.images[question["index"]]
        else:
            pixels = torch.tensor(question["pixels"], dtype=torch.float32).reshape(64)
        with self.lock, torch.no_grad():
            logits = self.model(pixels.unsqueeze(0) / 16)[0].tolist()
            self.count += 1
            label = max(range(10), key=logits.__getitem__)
            reply = {"request": self.count, "label": label, "logits": [x.hex() for x in logits]}
            body = json.dumps(reply).encode() + b"\n"
            self.sha.update(body)
            self.out.write(body)
            print(f"request {self.count} label {label} digest {self.sha.hexdigest()[:16]}", flush=True)
        return body

    def state(self):
        with self.lock:
            return {"requests": self.count, "digest": self.sha.hexdigest()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    wbufsize = -1  # headers and body in one packet

    def do_GET(self):
        if self.path == "/healthz":
            self.reply(200, json.dumps({"status": "ok", **self.server.oracle.state()}).encode() + b"\n")
        elif self.path == "/quit":
            self.close_connection = True
            self.reply(200, json.dumps(self.server.oracle.state()).encode() + b"\n")
            self.wfile.flush()
            self.server.stop()
        else:
            self.reply(404, NOT_FOUND)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/predict":
            self.reply(404, NOT_FOUND)
            return
        try:
            status, answer = 200, self.server.oracle.answer(json.loads(body))
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            status, answer = 400, json.dumps({"error": str(error)}).encode() + b"\n"
        self.reply(status, answer)

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp=None):
        return "Thu, 01 Jan 1970 00:00:00 GMT"  # equal requests get equal bytes, headers included

    def log_message(self, *args):
        pass  # the default prints the time of day


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def stop(self):
        threading.Thread(target=self.shutdown).start()  # shutdown() waits for the loop: not from a thread it waits for


def connect(port):
    while True:  # the server is still training
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.connect()
            return connection
        except ConnectionRefusedError:
            time.sleep(0.05)


def ask(port, requests):
    """The client of --requests: one connection for everything, and a count and a digest of its own."""
    connection = connect(port)
    sha = hashlib.sha256()
    for n in range(1, requests + 1):
        connection.request("POST", "/predict", json.dumps({"index": n * 37 % 1797}))
        body = connection.getresponse().read()
        if json.loads(body)["request"] != n:
            sys.exit(f"client: answer {body!r} to request {n}")
        sha.update(body)
        time.sleep(PACE_S)
    connection.request("GET", "/quit")
    if json.loads(connection.getresponse().read())["digest"] != sha.hexdigest():
        sys.exit("client: the server's digest is not mine")


def serve(server, client):
    """Serve until /quit, SIGTERM or the end of the client; the exit status."""
    terminated = threading.Event()

    def terminate(*_):
        terminated.set()
        server.stop()

    def wait_for_client():
        client.join()
        server.stop()

    signal.signal(signal.SIGTERM, terminate)
    waiter = threading.Thread(target=wait_for_client, daemon=True)
    if client is not None:
        waiter.start()
    server.serve_forever(poll_interval=0.1)
    if client is None or terminated.is_set():
        return 0
    waiter.join()
    return 0 if client.exitcode == 0 else 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=200, help="training steps before serving")
    parser.add_argument("--requests", type=int, help="be my own client, and end after that many")
    args = parser.parse_args()

    client = None
    if args.requests is not None:
        client = multiprocessing.get_context("fork").Process(target=ask, args=(args.port, args.requests), daemon=True)
        client.start()

    torch.set_num_threads(1)  # one image at a time; and the last bits do not depend on the number of cores
    images, labels = load()
    model = train(images, labels, args.steps)
    with open("answers.jsonl", "wb", buffering=0) as out, Server(("0.0.0.0", args.port), Handler) as server:
        server.oracle = Oracle(model, images, out)
        print(f"serving on port {args.port}", flush=True)
        status = serve(server, client)
    state = server.oracle.state()
    print(f"answered {state['requests']} requests", flush=True)
    print(f"digest {state['digest']}", flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
