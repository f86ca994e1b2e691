"""A real Kubernetes API server on loopback, with the kinds of the MPI operator, the Trainer and JobSet, and no nodes."""

import contextlib
import functools
import os
import subprocess
from pathlib import Path

from processes import started
from program import wait_until
from prometheus import free_port

BUILD = Path(__file__).with_name("build.sh")
TOKEN = "of-the-tests"


@functools.cache
def programs():
    """The folder of the binaries; built if they are not there, which takes minutes."""
    built = subprocess.run([BUILD], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.splitlines()[-1])


class ApiServer:
    def __init__(self, directory):
        self.directory = directory
        self.port, self.etcd, peers = free_port(), free_port(), free_port()
        self.commands = {"etcd": self._etcd(peers), "kube-apiserver": self._api_server()}

    def _etcd(self, peers):
        clients, peers = f"http://127.0.0.1:{self.etcd}", f"http://127.0.0.1:{peers}"
        return [
            f"--data-dir={self.directory / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        ]

    def _api_server(self):
        return [
            f"--etcd-servers=http://127.0.0.1:{self.etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--endpoint-reconciler-type=none",
            f"--cert-dir={self.directory / 'certificates'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory / 'account.key'}",
            f"--service-account-signing-key-file={self.directory / 'account.key'}",
            "--service-cluster-ip-range=10.0.0.0/24",
        ]

    def __enter__(self):
        (self.directory / "tokens.csv").write_text(f'{TOKEN},tests,1,"system:masters"\n')
        key = ["openssl", "genrsa", "-out", self.directory / "account.key", "2048"]
        subprocess.run(key, check=True, capture_output=True)
        with contextlib.ExitStack() as stack:
            self.processes = [stack.enter_context(self._started(name)) for name in self.commands]
            wait_until(self._is_ready, "the API server", 120, interval=0.1)
            self.kubectl("apply", "--server-side", "-f", programs() / "definitions")
            self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    @contextlib.contextmanager
    def _started(self, name):
        with (self.directory / f"{name}.log").open("wb") as log:
            with started([programs() / name, *self.commands[name]], stdout=log, stderr=log) as process:
                yield process

    def _is_ready(self):
        for name, process in zip(self.commands, self.processes, strict=True):
            last = (self.directory / f"{name}.log").read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"{name} ended with {process.returncode}\n{last}"
        return self.kubectl("get", "--raw", "/readyz", check=False).returncode == 0

    def kubectl(self, *words, check=True, **options):
        access = [f"--server=https://127.0.0.1:{self.port}", "--insecure-skip-tls-verify", f"--token={TOKEN}"]
        environment = {**os.environ, "KUBECONFIG": "/dev/null", "HOME": str(self.directory)}
        command = [programs() / "kubectl", *access, *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)
        assert not check or done.returncode == 0, f"kubectl {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        return done
