"""Settings as in production, for one machine: nothing to edit, and no secret in the repository.

The environment may say otherwise:

* ``DEMO_SECRET_KEY``: the key; without it one is made on first use and kept in ``.secret_key``;
* ``DEMO_DATABASE``: path of the SQLite file (``db.sqlite3`` beside ``manage.py``);
* ``DEMO_ALLOWED_HOSTS``: comma-separated names to serve besides the loopback's;
* ``DEMO_DEBUG=1``: Django's debug pages.
"""

import os
from pathlib import Path

from project.secret import secret_key

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = os.environ.get("DEMO_DEBUG") == "1"
SECRET_KEY = os.environ.get("DEMO_SECRET_KEY") or secret_key(BASE_DIR / ".secret_key")
ALLOWED_HOSTS = [
    "127.0.0.1",
    "localhost",
    "[::1]",
    *filter(None, os.environ.get("DEMO_ALLOWED_HOSTS", "").split(",")),
]

INSTALLED_APPS = ["project"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DEMO_DATABASE") or BASE_DIR / "db.sqlite3",
        "OPTIONS": {
            # Nine processes write to one file. A transaction takes the write lock at its beginning: one that takes it
            # later, after a read, is refused at once ("database is locked") when another has written in between.
            "transaction_mode": "IMMEDIATE",
            # Seconds to wait for that lock: a visit holds it for about a millisecond, so this is never reached in
            # health, and is shorter than the 30 s that Arbiter gives a request.
            "timeout": 20,
            # Readers do not wait for the writer (WAL), and NORMAL is as safe as FULL there but for the last
            # transactions before a power cut: https://www.sqlite.org/pragma.html#pragma_synchronous
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# A file is written to disk as it arrives: a large upload does not make the worker large.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]

USE_TZ = True

# With DEBUG off Django mails errors to ADMINS and prints nothing; here they go where Arbiter's own log goes.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "django": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "django.request": {"level": "ERROR"},  # a 4xx is the client's affair: the access log has it
    },
}
