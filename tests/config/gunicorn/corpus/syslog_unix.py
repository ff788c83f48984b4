# log: ready after
workers = 1
syslog = True
syslog_addr = "udp://127.0.0.1:5514"
syslog_prefix = "shop"
syslog_facility = "local0"
disable_redirect_access_to_syslog = True
