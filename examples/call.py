"""The smallest caller: connect, name the service and the method, have the answer."""

import asyncio

from examples import BROKER
from rsocket_mesh import connect


async def main() -> None:
    async with connect(BROKER) as mesh:
        print(await mesh.service("machine").request_response("now"))


if __name__ == "__main__":
    asyncio.run(main())
