# log: ready
import logging

from gunicorn import glogging


class HealthCheckFilter(logging.Filter):
    def filter(self, record):
        return "/health" not in record.getMessage()


class CustomLogger(glogging.Logger):
    def setup(self, cfg):
        super().setup(cfg)
        logging.getLogger("gunicorn.access").addFilter(HealthCheckFilter())


accesslog = "-"
workers = 1
logger_class = CustomLogger
