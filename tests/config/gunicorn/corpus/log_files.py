# exists: access.log
# exists: error.log
import os

here = os.path.dirname(os.path.abspath(__file__))
chdir = here
accesslog = os.path.join(here, "access.log")
errorlog = os.path.join(here, "error.log")
capture_output = True
loglevel = "debug"
workers = 1
pidfile = os.path.join(here, "app.pid")
