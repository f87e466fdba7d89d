"""Redis, installed or unpacked from Debian's packages."""

from __future__ import annotations

from collections.abc import Sequence

from tests.servers import debian
from tests.servers.ports import HOST, Probe, free_port
from tests.servers.process import ServerProcess, new_home, remove
from tests.servers.server import RedisServer

PACKAGES = ("redis-server", "redis-tools")

_PROBE = Probe(b"PING\r\n", b"+PONG")


def redis(*, extra: Sequence[str] = ()) -> RedisServer:
    """A started Redis that keeps nothing over `kill`; `extra` holds lines such as `appendonly yes`."""
    install = debian.find("redis-server", PACKAGES)
    home = new_home("redis")
    try:
        port = free_port()
        configuration = home / "redis.conf"
        settings = [f"bind {HOST}", f"port {port}", f"dir {home}", 'save ""', "daemonize no", *extra, ""]
        configuration.write_text("\n".join(settings))
        command = [install.program("redis-server"), str(configuration)]
        process = ServerProcess(command, home, port, _PROBE, environment=install.environment)
        process.start()
    except BaseException:
        remove(home)
        raise
    return RedisServer(name="redis", port=port, process=process)
