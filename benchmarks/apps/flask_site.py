"""One Flask view."""

from __future__ import annotations

from flask import Flask, Response, jsonify
from payload import PAYLOAD

wsgi = Flask(__name__)


@wsgi.get("/json")
def view() -> Response:
    return jsonify(PAYLOAD)
