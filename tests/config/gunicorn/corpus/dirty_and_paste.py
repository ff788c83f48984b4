# log: dirty_workers .* has no effect
# log: worker_tmp_dir .* has no effect
workers = 1
worker_tmp_dir = "/dev/shm"
dirty_apps = ["tasks:App"]
dirty_workers = 2
enable_stdio_inheritance = True
