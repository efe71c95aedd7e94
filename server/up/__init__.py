"""The one-command stack, ``tryon up``: embedded Valkey, migrations, web and worker.

The processes are supervised until Ctrl-C. Each leads a session of its own, so that
Ctrl-C reaches this process alone and it can stop them in order: web (notifies its
clients), worker (hands its sessions back), Valkey. On Linux the kernel kills them if
this process is killed. A program that ends is started again; one that cannot start at
all ends the stack.

:mod:`~server.up.reservations` holds what must be free before anything starts,
:mod:`~server.up.program` keeps one program running, :mod:`~server.up.probes` asks
whether it answers, :mod:`~server.up.stack` starts and stops all of them in order.
"""

from server.up.errors import UpError
from server.up.reservations import check_port
from server.up.stack import up

__all__ = ["UpError", "check_port", "up"]
