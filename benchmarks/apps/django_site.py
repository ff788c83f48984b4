"""One Django view, behind the middleware of `startproject` that needs no database."""

from __future__ import annotations

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="benchmark",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
)
django.setup()

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402  after the settings
from django.http import HttpRequest, JsonResponse  # noqa: E402  as above
from django.urls import path  # noqa: E402  as above
from payload import PAYLOAD  # noqa: E402  as above


def view(_request: HttpRequest) -> JsonResponse:
    return JsonResponse(PAYLOAD)


urlpatterns = [path("json", view)]
wsgi = WSGIHandler()
