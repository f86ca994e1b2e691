"""The command lines of a control plane on loopback, and the files that they share."""

import json
import subprocess

ADMIN_TOKEN = "admin"  # nobody else reaches the server: it listens on loopback, in a network namespace of its own
SERVER = "https://127.0.0.1:6443"


def write_files(folder):
    """The key of service accounts' tokens, the administrator's token and a kubeconfig for it."""
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / "accounts.key"],
        check=True,
        capture_output=True,
    )
    (folder / "tokens.csv").write_text(f"{ADMIN_TOKEN},admin,admin,system:masters\n")
    write_kubeconfig(folder / "kubeconfig", ADMIN_TOKEN)


def write_kubeconfig(path, token):
    """JSON is YAML. The server's certificate is its own and needs no check: it is alone in its namespace."""
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": SERVER, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    path.write_text(json.dumps(configuration))


def etcd(folder):
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return [
        "etcd",
        f"--data-dir={folder / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def apiserver(folder):
    return [
        "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--cert-dir={folder / 'certificates'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'accounts.key'}",
        f"--service-account-signing-key-file={folder / 'accounts.key'}",
        "--service-cluster-ip-range=10.0.0.0/24",
    ]


def proxy(folder):
    return ["kubectl", f"--kubeconfig={folder / 'kubeconfig'}", "proxy", f"--unix-socket={folder / 'api.sock'}"]


def controller_manager(folder):
    """Without the watch over nodes: nobody renews the leases of nodes that have no kubelet."""
    return [
        "kube-controller-manager",
        f"--kubeconfig={folder / 'kubeconfig'}",
        "--leader-elect=false",
        f"--service-account-private-key-file={folder / 'accounts.key'}",
        f"--root-ca-file={folder / 'certificates/apiserver.crt'}",
        "--controllers=*,-node-lifecycle-controller",
    ]


def scheduler(folder):
    return ["kube-scheduler", f"--kubeconfig={folder / 'kubeconfig'}", "--leader-elect=false", "--secure-port=10259"]


def operator(folder):
    """As its own service account, so that the roles it ships are tested; its default of 5 requests a second is slow."""
    return [
        "mpi-operator",
        f"-kubeConfig={folder / 'operator.kubeconfig'}",
        "-lock-namespace=mpi-operator",
        "-kube-api-qps=100",
        "-kube-api-burst=200",
        "-alsologtostderr",
    ]
