"""RabbitMQ, installed or unpacked from Debian's packages."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.servers import debian
from tests.servers.ports import HOST, Probe, free_port
from tests.servers.process import ServerProcess, new_home, remove, search_path
from tests.servers.server import RabbitServer

_ERLANG = (
    "asn1", "base", "crypto", "eldap", "ftp", "inets", "mnesia", "os-mon", "parsetools", "public-key", "runtime-tools",
    "snmp", "ssl", "syntax-tools", "tftp", "tools", "xmerl",
)  # fmt: skip
PACKAGES = ("rabbitmq-server", *(f"erlang-{application}" for application in _ERLANG))

# A client greets with the version of the protocol; the broker answers with a frame of type 1, a method.
_PROBE = Probe(b"AMQP\0\0\x09\x01", b"\x01")

# Erlang's nodes find each other through a daemon that the first of them starts, and that outlives them. This one has a port
# of its own, and is a child of the process that becomes the broker: it ends with it.
_START = (
    'epmd -port "$ERL_EPMD_PORT" -address "$ERL_EPMD_ADDRESS" & until epmd -names; do sleep 0.05; done; exec erl "$@"'
)
_ARGUMENTS = (
    *("-noinput", "-boot", "start_sasl", "-s", "rabbit", "boot"),
    *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
    *("-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false"),
)


def rabbitmq(*, extra: Sequence[str] = ()) -> RabbitServer:
    """A started RabbitMQ without plugins; `extra` holds lines such as `consumer_timeout = 10000`.

    It writes down what it has confirmed, but after `kill` may not know the queue any more, if that was new.
    """
    install = debian.find("rabbitmq-server", PACKAGES)
    home = new_home("rabbitmq")
    try:
        port = free_port()
        (home / "rabbitmq.conf").write_text("\n".join([f"listeners.tcp.1 = {HOST}:{port}", *extra, ""]))
        (home / "plugins.enabled").write_text("[].")
        environment = {
            **install.environment,
            **_erlang(install, home),
            "ERL_LIBS": str(_libraries(install, home)),
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins.enabled"),
        }
        command = ["sh", "-c", _START, "rabbitmq", *_ARGUMENTS]
        # Asked to stop it takes three seconds to leave in order, which is nothing to a folder that is removed.
        process = ServerProcess(command, home, port, _PROBE, signal.SIGKILL, environment)
        process.start()
    except BaseException:
        remove(home)
        raise
    return RabbitServer(name="rabbitmq", port=port, process=process)


def _erlang(install: debian.Install, home: Path) -> dict[str, str]:
    """Debian's `erl` knows only /usr/lib/erlang: links to what there is, with an `erl` that knows where it stands."""
    root = install.prefix / "lib" / "erlang"
    if not install.unpacked:
        found = shutil.which("erl", path=search_path())
        if found is None:
            raise debian.MissingEngine("rabbitmq-server is installed, and no Erlang on PATH: install it too")
        root = Path(found).resolve().parents[1]
    runtime = next(root.glob("erts-*")) / "bin"
    own = home / "erlang"
    (own / "bin").mkdir(parents=True)
    for there, here in ((root, own), (root / "bin", own / "bin")):
        for path in there.iterdir():
            if path.name not in ("bin", "erl"):
                (here / path.name).symlink_to(path)
    erl = own / "bin" / "erl"
    erl.write_text(f'#!/bin/sh\nROOTDIR={own} BINDIR={runtime} EMU=beam PROGNAME=erl exec {runtime}/erlexec "$@"\n')
    erl.chmod(0o755)
    return {"PATH": f"{own / 'bin'}:{search_path()}"}


def _libraries(install: debian.Install, home: Path) -> Path:
    """Links to the broker's own code. Each of its forty plugins is one more place to look for every module: two seconds."""
    releases = [install.prefix, *install.prefix.glob("lib/**/rabbitmq_server-*")]
    plugins = next(path / "plugins" for path in releases if (path / "plugins").is_dir())
    libraries = home / "libraries"
    libraries.mkdir()
    for path in plugins.iterdir():
        if not path.name.startswith("rabbitmq_") or path.name.startswith("rabbitmq_prelaunch"):
            (libraries / path.name).symlink_to(path)
    return libraries
