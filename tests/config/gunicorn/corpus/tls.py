# tls
# log: listening on https?://
import os

certfile = os.environ.get("CERT", "cert.pem")
keyfile = os.environ.get("KEY", "key.pem")
ciphers = None
workers = 1
do_handshake_on_connect = False
suppress_ragged_eofs = True
