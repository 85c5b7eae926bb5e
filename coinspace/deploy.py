"""`coinspace deploy systemd`: one unit per process and a target around them.

Units start in the order of `coinspace up`: the store, the readers of the bus, then its writers.
systemd stops units in the reverse order, so that the last message is still stored. The processes
send the messages for readiness and watchdog themselves (sd_notify). Directives: systemd.service(5),
systemd.exec(5), systemd.unit(5).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import click

from coinspace.config import ALERTER, config_option, load
from coinspace.errors import ConfigError
from coinspace.process import COMMAND
from coinspace.supervisor import chosen, only_option, start_groups

TARGET = "coinspace.target"
SECRETS = "/etc/coinspace/secrets.env"
# what each directive takes as it is: their rules for quotes, `%`, `$` and `:` differ
_PLAIN = re.compile(r"[\w./@+,=~-]+")
# an empty one would mean root
_USER = re.compile(r"[A-Za-z_][\w.-]*|\d+", re.ASCII)
# `PrivateTmp=` hides them from the processes
HIDDEN = (Path("/tmp"), Path("/var/tmp"))
VERIFY_TIMEOUT_S = 60

TARGET_UNIT = """\
[Unit]
Description=CoinSpace: order books, index and premium
Wants={wants}

[Install]
WantedBy=multi-user.target
"""

UNIT = """\
[Unit]
Description=CoinSpace {name}
PartOf={target}
After={after}
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
User={user}
WorkingDirectory={data}
Environment=COINSPACE_DATA={data}
{config}# secrets as COINSPACE_… variables: a file that only root can read
EnvironmentFile=-{secrets}
ExecStart={command}
{reload}Restart=always
RestartSec=2
TimeoutStartSec=300
WatchdogSec=60
TimeoutStopSec=60
LimitNOFILE=20000
TasksMax=512
UMask=0077
{directory}
# what the process may not do
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={data}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy={target}
"""

RELOAD = "ExecReload=/bin/kill -HUP $MAINPID\n"


def unit_name(process: str) -> str:
    return f"coinspace-{process}.service"


def units(
    processes: dict[str, list[str]],
    *,
    user: str,
    data: Path,
    config: Path | None,
    host: str = "",
) -> dict[str, str]:
    """Return file name -> text of the target and of one unit per process.

    Raises: ConfigError for a user or a path that cannot stand in a unit file.
    """
    if not _USER.fullmatch(user):
        raise ConfigError(f"--user {user!r}: expected the name or the number of a user")
    paths = {"--data": data, "--config": config or data, "path of Python": COMMAND[0]}
    paths |= {"--host": host} if host else {}
    for what, path in paths.items():
        if not _PLAIN.fullmatch(str(path)):
            raise ConfigError(
                f"{what} {str(path)!r}: expected letters, digits and _ . / @ + , = ~ - only, since"
                " others, such as spaces and %, mean something else in a unit file"
            )
    if ".." in data.parts or data == Path("/") or set(HIDDEN) & {data, *data.parents}:
        raise ConfigError(
            f"--data {str(data)!r}: expected a folder that outlives a start, not /tmp"
        )
    # systemd makes a folder there with the right owner
    makes = data.parent == Path("/var/lib")
    directory = f"StateDirectory={data.name}\nStateDirectoryMode=0700\n" if makes else ""
    setting = f"Environment=COINSPACE_CONFIG={config}\n" if config else ""
    setting += f"Environment=COINSPACE_HOST={host}\n" if host else ""
    found = {TARGET: TARGET_UNIT.format(wants=" ".join(unit_name(name) for name in processes))}
    earlier: list[str] = []
    for group in start_groups(list(processes)):
        for name in group:
            found[unit_name(name)] = UNIT.format(
                name=name,
                target=TARGET,
                after=" ".join(["network-online.target", *map(unit_name, earlier)]),
                user=user,
                data=data,
                config=setting,
                secrets=SECRETS,
                command=" ".join([*COMMAND, *processes[name]]),
                directory=directory,
                reload=RELOAD if name == ALERTER else "",
            )
        earlier += group
    return found


def write(found: dict[str, str], folder: Path) -> None:
    """Write units, replacing those of the same names.

    Raises: ConfigError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in found.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise ConfigError(f"--output {folder}: expected a writable folder, {error}") from None


def verify(folder: Path, names: Iterable[str]) -> str:
    """Check the units with systemd-analyze. Returns: its complaints, "" = none.

    Raises: FileNotFoundError where systemd is absent.
    """
    tool = shutil.which("systemd-analyze")
    if tool is None:
        raise FileNotFoundError("systemd-analyze")
    done = subprocess.run(
        [tool, "verify", "--man=no", *(str(folder / name) for name in names)],
        capture_output=True,
        text=True,
        timeout=VERIFY_TIMEOUT_S,
        check=False,
        # the units of the folder find each other, and systemd's own
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
    )
    lines = [line for line in done.stderr.splitlines() if "coinspace" in line]
    return "\n".join(lines)


@click.group()
def deploy() -> None:
    """Write what a host needs to run CoinSpace as a service."""


@deploy.command()
@config_option
@click.option("--output", type=click.Path(path_type=Path), default="units", show_default=True)
@click.option("--user", default="coinspace", show_default=True, help="runs the processes")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default="/var/lib/coinspace",
    show_default=True,
    help="data folder of the service",
)
@only_option
@click.option("--host", default=None, help="name in [hosts] of the machine that gets the units")
def systemd(
    config_path: str | None,
    output: Path,
    user: str,
    data: Path,
    only: tuple[str, ...],
    host: str | None,
) -> None:
    """Write one systemd unit per process and coinspace.target.

    \b
    Example:
      coinspace deploy systemd --output units
      sudo cp units/* /etc/systemd/system/ && sudo systemctl daemon-reload
      sudo systemctl enable --now coinspace.target
    """
    if not data.is_absolute():
        raise ConfigError(f"--data {str(data)!r}: expected an absolute path")
    if host is not None:
        os.environ["COINSPACE_HOST"] = host
    settings = load(config_path)
    # the processes get the file that was read here
    read = Path(config_path or os.environ.get("COINSPACE_CONFIG") or "coinspace.toml").absolute()
    config = read if read.is_file() else None
    processes = chosen(settings, only)
    found = units(processes, user=user, data=data, config=config, host=host or "")
    write(found, output)
    for name in found:
        click.echo(output / name)
    try:
        complaints = verify(output.absolute(), found)
    except FileNotFoundError:
        click.echo("systemd-analyze not found: the units are written but not verified", err=True)
        return
    if complaints:
        click.echo(complaints, err=True)
        raise ConfigError("systemd-analyze verify: expected no complaints, see above")
