"""Clients of a ModelServer, run in a pod: `python3 -c "$(cat clients.py)" SERVER CLIENTS TOKENS REPEAT`.

Each client streams an answer of so many tokens, once or until SIGUSR1, and prints a line of JSON at its end.
"""

import http.client
import json
import signal
import sys
import threading
import time

server, clients, tokens, repeat = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
stopping = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: stopping.set())
BODY = {
    "model": server,
    "messages": [{"role": "user", "content": "What is a pod?"}],
    "max_tokens": tokens,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}


def stream() -> dict[str, object]:
    began, received, last = time.time(), 0, ""
    connection = http.client.HTTPConnection(server, timeout=300)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(BODY), {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if line.strip():
                last = line.decode().strip()
                if '"usage":{' in last:
                    received = json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"]
    except Exception as error:
        last = f"{type(error).__name__}: {error}"
    return {"began": began, "seconds": round(time.time() - began, 1), "tokens": received, "last": last}


def client() -> None:
    while True:
        line = json.dumps(stream()) + "\n"
        with writing:
            sys.stdout.write(line)
            sys.stdout.flush()
        if repeat != "repeat" or stopping.is_set():
            return
        time.sleep(0.1)


writing = threading.Lock()
threads = [threading.Thread(target=client) for _ in range(clients)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
