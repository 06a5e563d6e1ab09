"""Asks a node over HTTPS with the standard library alone: python tls_client.py HOST PORT CA_FILE."""

import http.client
import json
import socket
import ssl
import sys

host, port, ca_file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=ca_file)
for protocol in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context.minimum_version = context.maximum_version = protocol
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=30)
    connection.request("GET", "/v1/workflows")
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    assert json.load(answer)["items"] == []
    connection.close()

context = ssl.create_default_context(cafile=ca_file)
for offered, chosen in ((["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")):
    context.set_alpn_protocols(offered)
    with socket.create_connection((host, port), timeout=30) as plain:
        with context.wrap_socket(plain, server_hostname=host) as secure:
            assert secure.selected_alpn_protocol() == chosen, secure.selected_alpn_protocol()

try:
    strangers = ssl.create_default_context()
    with socket.create_connection((host, port), timeout=30) as plain:
        strangers.wrap_socket(plain, server_hostname=host)
    raise AssertionError("a certificate of nobody's was taken")
except ssl.SSLCertVerificationError:
    pass
