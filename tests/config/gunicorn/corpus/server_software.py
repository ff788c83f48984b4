# log: ready after
import gunicorn

gunicorn.SERVER_SOFTWARE = "nginx"
workers = 1
threads = 2
