# log: migrated by 0
# log: Starting on
import subprocess
import sys


def on_starting(server):
    done = subprocess.run([sys.executable, "-c", "print('migrated')"], check=True, capture_output=True, text=True)
    server.log.info("%s by %d", done.stdout.strip(), done.returncode)
    server.log.info("Starting on %s", server.address)


workers = 1
