"""aiosmtpd with the bare protocol's store: another library that people build on, committing before each 250 as all others here do.

    python benchmarks/aiosmtpd_server.py PORT --database FILE [--certificate FILE]

Nothing is delivered. Listens on 127.0.0.1.
"""

import argparse
import asyncio
import ssl
import warnings
from functools import partial
from typing import Any

from aiosmtpd.smtp import SMTP
from store import Store


class Keeper:
    """What aiosmtpd asks."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: ARG002, N802 - aiosmtpd's
        done = asyncio.get_running_loop().create_future()
        recipients = [address.encode() for address in envelope.rcpt_tos]
        self.store.put(envelope.mail_from.encode(), recipients, envelope.original_content, partial(done.set_result, None))
        await done
        return "250 2.0.0 queued"


async def serve(port: int, database: str, certificate: str | None) -> None:
    loop = asyncio.get_running_loop()
    keeper = Keeper(Store(database, loop.call_soon, partial(loop.run_in_executor, None), loop.call_soon_threadsafe))
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    make = partial(SMTP, keeper, hostname="mx.example.org", data_size_limit=100 << 20, tls_context=context, loop=loop)
    server = await loop.create_server(make, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("port", type=int)
    options.add_argument("--database", required=True, help="a file that does not exist yet")
    options.add_argument("--certificate", help="PEM: key and certificate")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    asyncio.run(serve(chosen.port, chosen.database, chosen.certificate))


if __name__ == "__main__":
    main()
