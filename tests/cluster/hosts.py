"""Hosts on one machine, without Kubernetes: each has a name, a network, processes and an sshd of its own.

Their files are this machine's, as a cluster's are on a file system that all share. It wants root.
"""

import shutil
import subprocess

from network import Names, Network
from program import children_of, wait_until

SSHD = "/usr/sbin/sshd"  # which wants to be started by its whole path
NAMESPACES = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
# A host's first process. Its /etc/ssh is the tests' own, so that neither keys nor settings of this machine matter.
BOOT = f"""
mount --bind "$1" /etc/hosts
mount --bind "$2" /etc/ssh
mount -t tmpfs tmpfs /run
mkdir /run/sshd
hostname "$3"
exec {SSHD} -D -e
"""
# mpirun's folders are named for host and process, which may be the same in another test that runs beside this one.
SSHD_CONFIG = """PermitRootLogin prohibit-password
StrictModes no
UsePAM no
HostKey /etc/ssh/key
AuthorizedKeysFile /etc/ssh/key.pub
SetEnv TMPDIR={temporary}
"""
SSH_CONFIG = """Host *
  BatchMode yes
  ConnectTimeout 10
  IdentityFile /etc/ssh/key
  GlobalKnownHostsFile /etc/ssh/known_hosts
"""


def write_ssh_folder(folder, temporary):
    """One key for every host and for the user: who may log in where is not what is tried here."""
    folder.mkdir()
    temporary.mkdir()
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(temporary=temporary))
    (folder / "ssh_config").write_text(SSH_CONFIG)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    (folder / "known_hosts").write_text(f"* {(folder / 'key.pub').read_text()}")


class Host:
    """Boots with start(); all that runs on it ends at once with lose()."""

    def __init__(self, name, network, boot, directory):
        self.name, self.network, self.temporary = name, network, directory / "tmp"
        self.log, self.boot = directory / f"{name}.log", [*boot, name]
        self.link, self.process = network.add(), None

    def start(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.link.namespace, *NAMESPACES, *self.boot],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: "Server listening" in self.log.read_text(), f"sshd of {self.name}", timeout=30)

    def lose(self):
        self.process.kill()
        self.process.wait()

    def cut(self):
        self.network.cut(self.link)

    def inside(self, directory):
        """What comes before a command that is to run here."""
        (first,) = children_of(self.process.pid)
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        return ["nsenter", f"--target={first.pid}", *spaces, f"--wdns={directory}", "--"]


class Hosts:
    """So many hosts, from the beginning of the block to its end."""

    def __init__(self, directory, count):
        self.directory, self.count = directory, count
        self.network, self.all = Network(), []

    def __enter__(self):
        missing = [program for program in ("ip", "unshare", "ssh-keygen", SSHD) if not shutil.which(program)]
        assert not missing, f"{missing} not found: apt-get install iproute2 util-linux openssh-client openssh-server"
        write_ssh_folder(self.directory / "ssh", self.directory / "tmp")
        names = Names(self.directory / "hosts")
        boot = ["sh", "-euc", BOOT, "boot", names.path, self.directory / "ssh"]
        self.network.__enter__()
        for number in range(1, self.count + 1):
            host = Host(f"host-{number}", self.network, boot, self.directory)
            names.set(host.name, host.link.address)
            self.all.append(host)
            host.start()
        return self.all

    def __exit__(self, *_):
        for host in self.all:
            host.lose()
        self.network.__exit__()
