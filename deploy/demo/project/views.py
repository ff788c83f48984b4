"""One view for each way a response can be made: template, JSON, async, stream, upload, and a slow one."""

import asyncio
import hashlib
import math
import os
import platform
import time

import django
from django.core.exceptions import RequestDataTooBig
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from project.models import Counter

LONGEST_SLEEP = 10.0
"""Seconds. A third of Arbiter's default request timeout (30 s): long enough to see a worker busy, never killed."""
LONGEST_STREAM = 1000
"""Lines; at 0.1 s each, 100 s: a stream that one can watch and reload the server under."""
LARGEST_UPLOAD = 1 << 30
"""Bytes. A form's file lies on disk while it is hashed, and a stranger should not fill the disk."""
BLOCK = 64 * 1024
"""Bytes read at a time: as large as Django's own chunks (FileUploadHandler.chunk_size)."""


@never_cache
@require_safe
def page(request):
    """The page, its visit counted."""
    return render(request, "project/page.html", {"visit": Counter.visit(), "facts": _facts(request)})


@never_cache
@require_safe
def facts(request):
    """What serves here, as JSON."""
    return JsonResponse({**_facts(request), "visits": Counter.seen()})


@never_cache
@require_safe
async def concurrent(_request):
    """Ten pauses of 100 ms beside a query: together they take little more than one of them."""
    began = time.monotonic()
    total, *_ = await asyncio.gather(
        Counter.objects.values_list("total", flat=True).aget(pk=1),
        *(asyncio.sleep(0.1) for _ in range(10)),
    )
    return JsonResponse({"pauses": 10, "milliseconds": round(1000 * (time.monotonic() - began)), "visits": total})


@never_cache
@require_safe
def stream(request):
    """Lines, one each 0.1 s, as they are made: ``?lines=20``."""
    count = int(_number(request, "lines", 20, LONGEST_STREAM))
    # Each interface is given its own kind of iterator: Django would collect one of the other kind before it sends any.
    lines = _lines_async if isinstance(request, ASGIRequest) else _lines
    response = StreamingHttpResponse(lines(count), content_type="text/plain; charset=utf-8")
    response["X-Accel-Buffering"] = "no"  # nginx in front passes the lines on at once
    return response


def _lines(count):
    for number in range(1, count + 1):
        yield _line(number, count)
        time.sleep(0.1)


async def _lines_async(count):
    for number in range(1, count + 1):
        yield _line(number, count)
        await asyncio.sleep(0.1)


def _line(number, count):
    return f"{number} of {count}, from process {os.getpid()}\n"


# Exempt, so that `curl -T` works: a forged request gains nothing here, there is no session and nothing is kept.
@csrf_exempt
@never_cache
@require_http_methods(["GET", "HEAD", "POST", "PUT"])
def upload(request):
    """Size and SHA-256 of a form's file, or of a body of any other type; what is sent is not kept."""
    result = None
    if request.method in ("POST", "PUT"):
        try:
            result = _digest(_blocks(request))
        except RequestDataTooBig:
            return JsonResponse({"error": f"more than {LARGEST_UPLOAD} bytes"}, status=413)
        if result is None:
            return JsonResponse({"error": "the form has no file in its field 'file'"}, status=400)
    if "text/html" in request.headers.get("Accept", "") or result is None:
        return render(request, "project/upload.html", {"result": result})
    return JsonResponse(result)


def _blocks(request):
    """The pieces of what was sent, or None for a form without a file."""
    if int(request.META.get("CONTENT_LENGTH") or 0) > LARGEST_UPLOAD:
        raise RequestDataTooBig
    if request.content_type == "multipart/form-data":
        file = request.FILES.get("file")
        return file and file.chunks(BLOCK)
    body = request
    if not request.META.get("CONTENT_LENGTH") and request.META.get("wsgi.input_terminated"):
        # Django takes a chunked body for an empty one; the server says that its end can be read, so it is read there.
        body = request.META["wsgi.input"]
    return iter(lambda: body.read(BLOCK), b"")


def _digest(blocks):
    if blocks is None:
        return None
    size, sha256 = 0, hashlib.sha256()
    for block in blocks:
        size += len(block)
        if size > LARGEST_UPLOAD:
            raise RequestDataTooBig
        sha256.update(block)
    return {"size": size, "sha256": sha256.hexdigest()}


@never_cache
@require_safe
def slow(request):
    """An answer that takes ``?seconds=`` to come, and holds its worker meanwhile."""
    seconds = _number(request, "seconds", 2.0, LONGEST_SLEEP)
    time.sleep(seconds)
    return HttpResponse(f"Slept {seconds:g} s in process {os.getpid()}.\n", content_type="text/plain; charset=utf-8")


def _number(request, name, default, most):
    """The number in the query, brought into 0..most; the default if it is not one."""
    try:
        value = float(request.GET.get(name, default))
    except ValueError:
        return default
    return min(max(value, 0.0), most) if math.isfinite(value) else default


def _facts(request):
    return {
        "process": os.getpid(),
        "server": request.META.get("SERVER_SOFTWARE", "unknown"),
        "interface": "ASGI" if isinstance(request, ASGIRequest) else "WSGI",
        "django": django.get_version(),
        "python": platform.python_version(),
    }
