"""A pool's keys and a table's row at an address on this machine, as quickly as they can be had: GET answers the first
argument (JSON), anything else the second. Prints its port, and ends with its standard input.
"""

import asyncio
import sys


class Connection(asyncio.Protocol):
    """Requests one after the other, as boto3 and urllib send them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
        if found and len(body) >= int(length.partition(b":")[2]):
            content = sys.argv[1 if head.startswith(b"GET ") else 2].encode()
            self.received = b""
            answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
            self.transport.write(answer + content)  # type: ignore[attr-defined]


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
