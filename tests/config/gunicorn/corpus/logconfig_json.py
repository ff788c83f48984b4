# out: "message": "GET / HTTP/1.1"
import json
import logging


class JsonFormatter(logging.Formatter):
    def format(self, record):
        return json.dumps({"logger": record.name, "message": record.getMessage()})


workers = 1
accesslog = "-"
access_log_format = "%(r)s"
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonFormatter}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {"gunicorn.access": {"handlers": ["console"], "level": "INFO", "propagate": False}},
}
