# log: 2 sync workers
from settings_helper import *  # noqa: F403
from settings_helper import BASE

bind = BASE["bind"]
workers = BASE["workers"]
raw_env = [f"{key}={value}" for key, value in BASE["env"].items()]
