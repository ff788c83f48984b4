"""The least that Python can do for a request: an epoll loop that answers whatever it receives. No server: canned.py PORT."""

from __future__ import annotations

import select
import socket
import sys

HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n%s\r\nHello, world!\n"
KEEP, CLOSE = HELLO % b"", HELLO % b"Connection: close\r\n"


def main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in epoll.poll():
            client = clients.get(descriptor)
            if client is None:
                client, _ = listener.accept()
                client.setblocking(False)
                clients[client.fileno()] = client
                epoll.register(client, select.EPOLLIN)
                continue
            try:
                data = client.recv(65536)
            except ConnectionError:
                data = b""
            closing = b"Connection: close" in data
            if data:
                client.send(CLOSE if closing else KEEP)
            if closing or not data:
                del clients[descriptor]
                client.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
