"""Claims the sessions whose links stand in the named file, and runs none of them.

So ten thousand clients without news follow sessions that run, and not a queue of ten
thousand.
"""

import asyncio
import sys
from pathlib import Path

from server.config.settings import Config
from server.services import open_services


async def main(links: Path) -> None:
    async with open_services(Config.load(env_file=None)) as services:
        await services.database.clock.synchronize()
        for link in links.read_text().split():
            session_id = link.split("/")[4]
            claim = await services.sessions.claims.begin(session_id, worker="benchmark")
            assert claim is not None
            await services.queue.forget(session_id, 0, claim.session.enqueues)


asyncio.run(main(Path(sys.argv[1])))
