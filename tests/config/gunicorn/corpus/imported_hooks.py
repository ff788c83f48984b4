# log: born by a helper
from hooks_helper import post_fork, when_ready  # noqa: F401

workers = 1
