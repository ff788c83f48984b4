"""The files that put a site into production, as text: for `arbiter --init`, and for deploy/, which is made from here.

One place, so that what is documented, what is generated and what the tests run are the same. A function gives a file; its
arguments are what differs between sites. `%i` as a name makes a template unit of systemd's (systemd.unit(5)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

DRAIN: Final = 5
"""Seconds that systemd and Kubernetes wait longer than `graceful_timeout` before they kill: for Arbiter's own end."""


def service(name: str, *, command: str, directory: str, user: str, graceful_timeout: int) -> str:
    """A unit for systemd.

    Args:
        name: of the site.
        command: what runs Arbiter in the foreground: the absolute path of `arbiter`, beside which `arbiterctl` is, and options.
        directory: where it starts.
        user: who it runs as, and in the group of the same name.
        graceful_timeout: seconds, as the setting.
    """
    return f"""\
# Arbiter serves {name}. See docs/howto/systemd.md; `systemd-analyze security` rates what it may do.
[Unit]
Description=Arbiter serves {name}
After=network.target

[Service]
Type=notify
# Ready when a worker is.
ExecStart={command}
# `systemctl reload` waits for its end, and fails with the reason if it is refused; the service goes on as it was.
ExecReload={command.partition(" ")[0]}ctl --main-pid $MAINPID --wait reload
# After USR2 the new supervisor is the main process; the old one speaks when it has to take the service back.
NotifyAccess=all
WorkingDirectory={directory}
User={user}
Group={user}
RuntimeDirectory={name}
# With the socket unit, systemd's own socket is in it.
RuntimeDirectoryPreserve=yes
StateDirectory={name}
# The supervisor says that it lives, and that its workers make progress; when it does not, it is started anew.
WatchdogSec=30
Restart=always
RestartSec=1
# systemd keeps the listening sockets over `systemctl restart`: who waits in the queue is served by the next.
FileDescriptorStoreMax=16
# Before version 254 systemd does not tell that it keeps them.
Environment=FDSTORE=16
# Only the supervisor is told to stop, and tells its workers; graceful_timeout and {DRAIN} seconds for its own end.
KillMode=mixed
TimeoutStopSec={graceful_timeout + DRAIN}
LimitNOFILE=65536

# What a web application does not need. Files: it reads everything but other people's, and writes in /run/{name},
# /var/lib/{name} and /tmp (its own); add ReadWritePaths= for more.
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UMask=0027

[Install]
WantedBy=multi-user.target
"""


def unit_socket(name: str, *, address: str, group: str) -> str:
    """A socket unit: systemd listens, also while the service is stopped, on an address as ListenStream= takes it."""
    access = (
        f"# Who may connect: nginx runs in this group on Debian.\nSocketGroup={group}\nSocketMode=0660\n"
        # Of root's, it would be in the way of a service that listens there itself again.
        "RemoveOnStop=yes\n"
        if "/" in address
        else ""
    )
    return f"""\
# Optional: systemd listens for {name}, so that the queue of connections outlives everything but the machine.
[Unit]
Description=The socket of {name}

[Socket]
ListenStream={address}
{access}Backlog=2048
NoDelay=yes

[Install]
WantedBy=sockets.target
"""


def nginx(name: str, *, upstream: str, static: str, server_name: str) -> str:
    """A site for nginx.

    Args:
        name: of the site.
        upstream: where Arbiter listens: ``unix:/run/shop/http.sock`` or ``127.0.0.1:8000``.
        static: a directory that nginx serves under /static/ itself; empty for none.
        server_name: the host name; ``_`` for every one.
    """
    variable = name.replace("-", "_")  # a variable of nginx's has no dash
    files = f"""
    location /static/ {{
        alias {static.rstrip("/")}/;
        expires 1h;
    }}
"""
    every = "\n    # Every name: of several sites nginx takes the one that it reads first, so Debian's own has to go."
    return f"""\
# {name} behind nginx, which has to be the one that ends an idle connection: a request that meets a connection which is being
# closed gets a 502 if it can't be repeated, as a POST. Arbiter keeps them for 75 s (its setting keepalive), but a worker that
# is replaced, by a reload say, ends those that have been idle for 0.3 s. A new connection costs next to nothing.
upstream {name} {{
    server {upstream} fail_timeout=0;
    keepalive 32;
    keepalive_timeout 200ms;
}}

map $http_upgrade ${variable}_connection {{
    default upgrade;
    "" "";
}}

server {{
    listen 80;
    listen [::]:80;
    # TLS, and who comes without it is sent here (nginx 1.25.1 and later has `http2 on;` for the word in the first two lines):
    # listen 443 ssl http2;
    # listen [::]:443 ssl http2;
    # ssl_certificate /etc/ssl/{name}/fullchain.pem;
    # ssl_certificate_key /etc/ssl/{name}/privkey.pem;
    # ssl_protocols TLSv1.2 TLSv1.3;
    # if ($scheme = http) {{ return 301 https://$host$request_uri; }}{every if server_name == "_" else ""}
    server_name {server_name};
    client_max_body_size 100m;
{files if static else ""}
    location / {{
        proxy_pass http://{name};
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host $host;
        # What a client says of itself in another field would contradict these, and Arbiter answers that with 400.
        proxy_set_header Forwarded "";
        proxy_set_header X-Forwarded-Protocol "";
        proxy_set_header X-Forwarded-Ssl "";
        proxy_set_header X-Request-ID $request_id;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection ${variable}_connection;
        proxy_redirect off;
        # An open WebSocket or event stream is silent for longer than nginx's usual 60 s.
        proxy_read_timeout 1h;
    }}
}}
"""


def haproxy(name: str, *, upstreams: Sequence[str]) -> str:
    """A frontend and a backend for HAProxy (2.4 or later), to stand in its haproxy.cfg.

    Args:
        name: of the site.
        upstreams: where Arbiter listens, each a host and a port: ``127.0.0.1:8000``.
    """
    servers = "".join(f"    server {name}{number} {each}\n" for number, each in enumerate(upstreams, 1))
    return f"""\
# {name} behind HAProxy: append it to /etc/haproxy/haproxy.cfg. It leans on no `defaults`.
frontend {name}
    mode http
    bind :::80 v4v6
    # TLS, and who comes without it is sent here; the file has the certificate, those above it, and the key:
    # bind :::443 v4v6 ssl crt /etc/haproxy/{name}.pem alpn h2,http/1.1 ssl-min-ver TLSv1.2
    # http-request redirect scheme https code 301 unless {{ ssl_fc }}
    timeout http-request 10s
    timeout client 60s
    # An idle client keeps its connection to Arbiter, which keeps it for 75 s (its setting keepalive): HAProxy closes first.
    timeout http-keep-alive 60s
    default_backend {name}

backend {name}
    mode http
    # Who the client is, in fields and not by `send-proxy-v2`: a connection that begins with one client's address can serve no
    # other client, and that protocol does not tell the scheme. To have it all the same, write `send-proxy-v2` at the end of
    # each `server` line, and proxy_protocol = "v2" in arbiter.toml.
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Request-ID %[uuid()]
    # What a client says of itself in another field would contradict these, and Arbiter answers that with 400.
    http-request del-header Forwarded
    http-request del-header X-Forwarded-Protocol
    http-request del-header X-Forwarded-Ssl
    timeout connect 5s
    # A worker may think for long, and an open event stream or WebSocket be silent; Arbiter has its own limits.
    timeout server 1h
    timeout tunnel 1h
    # A request that can be repeated is, when its connection ends before the answer begins; others are never sent twice.
    retry-on conn-failure empty-response
    http-request disable-l7-retry unless METH_GET
    option redispatch 1
    # health_path says 503 for the time of drain_delay: that has to be longer than the 2 s after which a server is left out.
    option httpchk GET /healthz
    timeout check 5s
    default-server check inter 1s fall 2 rise 1
    # One for each machine. TCP, and no Unix socket: Debian's haproxy runs in a chroot, from where it sees none.
{servers}"""


def dockerfile(*, python: str, install: str, app: str) -> str:
    """A Dockerfile: `install` are the lines that bring the dependencies in; all that is in the directory is the application."""
    return f"""\
# Build: wheels are compiled here, and nothing of it but the environment is kept.
FROM python:{python}-slim AS build
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
{install}
FROM python:{python}-slim
# A number: Kubernetes' runAsNonRoot can't look a name up.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY . .
USER 10001
EXPOSE 8000
# In this form Arbiter is process 1, and gets the signals. The worker count follows WEB_CONCURRENCY, or the CPU limit.
CMD ["arbiter", "--bind", "0.0.0.0:8000", "--access-logfile", "-", "--health-path", "/healthz", "{app}"]
"""


def dockerignore() -> str:
    """What has no business in an image."""
    return ".git\n.venv\nvenv\n__pycache__\n*.pyc\n.env\nDockerfile\ncompose.yaml\n"


def compose(name: str, *, graceful_timeout: int) -> str:
    """A compose file."""
    return f"""\
services:
  {name}:
    build: .
    ports: ["8000:8000"]
    environment:
      WEB_CONCURRENCY: "4"
    read_only: true
    tmpfs: [/tmp]
    restart: unless-stopped
    stop_grace_period: {graceful_timeout + DRAIN}s
    healthcheck:
      test: ["CMD", "python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
      interval: 10s
      start_period: 60s
"""


def kubernetes(name: str, *, graceful_timeout: int) -> str:
    """A Deployment and a Service."""
    delay = 10
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
spec:
  replicas: 2
  selector:
    matchLabels: {{app: {name}}}
  strategy:
    rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      # drain_delay, graceful_timeout, and {DRAIN} seconds for Arbiter's own end.
      terminationGracePeriodSeconds: {delay + graceful_timeout + DRAIN}
      enableServiceLinks: false  # a Service called "arbiter" would set variables that look like Arbiter's settings
      securityContext: {{runAsNonRoot: true, runAsUser: 10001, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: {name}
          image: {name}:latest
          ports: [{{containerPort: 8000, name: http}}]
          env:
            # It goes on serving for so long after SIGTERM, and says so to the probe: endpoints are told later than pods.
            - {{name: ARBITER_DRAIN_DELAY, value: "{delay}s"}}
          resources:
            requests: {{cpu: "1", memory: 512Mi}}
            limits: {{memory: 512Mi}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
          volumeMounts: [{{name: tmp, mountPath: /tmp}}]
          startupProbe:
            httpGet: {{path: /healthz, port: http}}
            periodSeconds: 1
            failureThreshold: 120
          readinessProbe:
            httpGet: {{path: /healthz, port: http}}
            periodSeconds: 2
      volumes: [{{name: tmp, emptyDir: {{}}}}]
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: http}}]
"""


DEPLOY: Final = {
    "systemd/arbiter@.service": service(
        "%i",
        command="/srv/%i/.venv/bin/arbiter -c /etc/arbiter/%i.toml",
        directory="/srv/%i",
        user="%i",
        graceful_timeout=30,
    ),
    "systemd/arbiter@.socket": unit_socket("%i", address="/run/%i/http.sock", group="www-data"),
    "nginx/site.conf": nginx("site", upstream="unix:/run/site/http.sock", static="/srv/site/static", server_name="_"),
    "haproxy/site.cfg": haproxy("site", upstreams=["127.0.0.1:8000"]),
    "docker/Dockerfile": dockerfile(
        python="3.13",
        install="COPY requirements.txt .\nRUN pip install -r requirements.txt arbiter-server\n",
        app="project.wsgi:application",
    ),
    "docker/compose.yaml": compose("site", graceful_timeout=30),
    "kubernetes/site.yaml": kubernetes("site", graceful_timeout=30),
}
"""What stands in deploy/, by its path there."""


if __name__ == "__main__":
    import os
    import sys

    for path, text in DEPLOY.items():
        whole = os.path.join(sys.argv[1], path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "w", encoding="utf-8") as file:
            file.write(text)
