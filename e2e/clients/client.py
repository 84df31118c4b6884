"""The client for Python: the cases of call.go with http.client and urllib, and nothing else installed.

It wants the host and the override as arguments and http_proxy in its environment. It lacks:
trailers (http.client drops those of answers, and sends them only by hand) and WebSocket (not in
the standard library).
"""

import hashlib
import http.client
import json
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

HOST, OVERRIDE = sys.argv[1:]
PROXY = urllib.parse.urlsplit(os.environ["http_proxy"])
URL = "http://" + HOST
SLOW = 20  # seconds


def pattern(n):
    """n bytes that look random."""
    return hashlib.shake_256().digest(n)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def same(what, got, want):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


def pieces(data, size=16384):
    """The data without its length: http.client sends what it cannot measure in chunks."""
    for i in range(0, len(data), size):
        yield data[i : i + size]


class Quiet(urllib.request.HTTPRedirectHandler):
    """Leaves redirections to the caller."""

    def redirect_request(self, *_):
        return None


# Without a ProxyHandler urllib takes the proxy from the environment, as applications do.
opener = urllib.request.build_opener(Quiet)


def ask(path, data=None, method=None, url=URL, **header):
    """One request by urllib, on a connection of its own."""
    request = urllib.request.Request(url + path, data=data, method=method)
    for name, value in header.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with opener.open(request, timeout=SLOW) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers, answer.read()


def echo(path="/echo", **arguments):
    status, _, body = ask(path, **arguments)
    same("status", status, 200)
    return json.loads(body)


def connection():
    """A connection to the proxy that is kept, for requests with whole URLs."""
    return http.client.HTTPConnection(PROXY.hostname, PROXY.port, timeout=SLOW)


def get():
    e = echo("/echo?a=%20b&c", X_Custom="kept", Proxy_Connection="keep-alive")
    same("method", e["method"], "GET")
    same("URI", e["uri"], "/echo?a=%20b&c")
    same("host", e["host"], HOST)
    same("X-Custom", e["header"]["X-Custom"], ["kept"])
    same("Proxy-Connection", e["header"].get("Proxy-Connection"), None)
    same("came through the mesh", "Via" in e["header"], True)


def head():
    c = connection()
    for _ in range(2):  # a body would spoil the second answer
        c.request("HEAD", URL + "/bytes?n=100000")
        answer = c.getresponse()
        same("length", answer.headers["Content-Length"], "100000")
        same("body", answer.read(), b"")
    c.close()


def post():
    body = pattern(300 << 10)
    e = echo(data=body)
    same("chunked", e["chunked"], False)
    same("SHA-256", e["sha256"], sha256(body))


def chunked():
    body = pattern(3 << 19)
    e = echo(data=pieces(body), method="POST")
    same("chunked", e["chunked"], True)
    same("SHA-256", e["sha256"], sha256(body))


def expect():
    # http.client does not wait, but has to get past the 100.
    body = pattern(1 << 20)
    e = echo(data=body, Expect="100-continue")
    same("SHA-256", e["sha256"], sha256(body))


def refused():
    c = connection()
    c.putrequest("POST", URL + "/refuse")
    c.putheader("Content-Length", str(1 << 20))
    c.putheader("Expect", "100-continue")
    c.endheaders()
    answer = c.getresponse()
    same("status", answer.status, 413)
    same("text", answer.read(), b"the application wants less\n")
    c.close()


def early():
    c = connection()
    try:
        c.request("POST", URL + "/refuse", body=pieces(pattern(4 << 20)), encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the rest is not wanted; the answer is there all the same
    answer = c.getresponse()
    same("status", answer.status, 413)
    same("text", answer.read(), b"the application wants less\n")
    c.close()


def keepalive():
    c = connection()
    c.connect()
    first = c.sock
    for i in range(20):
        body = pattern(i * 1000)
        c.request("POST" if i % 2 else "PUT", URL + "/echo", body=body)
        e = json.load(c.getresponse())
        same("SHA-256", e["sha256"], sha256(body))
        same("the connection is the first", c.sock is first, True)
    c.close()


def download():
    for how in "", "&chunked":
        status, headers, body = ask(f"/bytes?n={4 << 20}{how}")
        same("status", status, 200)
        same("has a length", "Content-Length" in headers, how == "")
        same("SHA-256", sha256(body), headers["X-Sha256"])


def streaming():
    """A piece of the answer is there before the next of the request is sent."""
    c = connection()
    c.putrequest("POST", URL + "/stream")
    c.putheader("Transfer-Encoding", "chunked")
    c.endheaders()
    answer = None
    for word in b"one", b"two", b"three":
        c.send(b"%x\r\n%s\r\n" % (len(word), word))
        answer = answer or c.getresponse()
        same("answer", answer.read(len(word)), word)
    c.send(b"0\r\n\r\n")
    same("rest", answer.read(), b"")
    c.close()


def errors():
    for code in 404, 500, 503, 418, 302, 307, 204, 304:
        text = b"" if code in (204, 304) else b"the application says %d\n" % code
        location = "http://elsewhere/" if code in (302, 307) else None
        query = f"&location={location}" if location else ""
        status, headers, body = ask(f"/status?code={code}{query}")
        same("status", status, code)
        same("body", body, text)
        same("Location", headers["Location"], location)
        same("X-Reason", headers["X-Reason"], "because")
        same("tulle-code", headers["tulle-code"], None)
        same("l5d-err", headers["l5d-err"], None)


def unknown():
    status, headers, body = ask("/", url="http://nobody")
    same("status", status, 502)
    same("tulle-code", headers["tulle-code"], "T201")
    same("says what to do", b"check that the Service is there" in body, True)


def override():
    before, during, after = echo(), echo(l5d_dtab=OVERRIDE), echo()
    same("overridden", during["app"] != before["app"], True)
    same("after it", after["app"], before["app"])


def connect_http():
    c = connection()
    c.set_tunnel(HOST, 80)
    apps = []
    for header in {}, {"l5d-dtab": OVERRIDE}, {}:
        c.request("GET", "/echo?x", headers=header)
        e = json.load(c.getresponse())
        same("host", e["host"].removesuffix(":80"), HOST)
        same("URI", e["uri"], "/echo?x")
        apps.append(e["app"])
    same("the last is the first", apps[2], apps[0])
    same("overridden", apps[1] != apps[0], True)
    c.close()


def tunnel(port):
    c = connection()
    c.set_tunnel(HOST, port)
    c.connect()
    return c.sock


def connect_tcp():
    with tunnel(7000) as s:
        same("greeting", s.recv(6, socket.MSG_WAITALL), b"ready\n")
        body = b"\0" + pattern(100 << 10)
        s.sendall(body)
        s.shutdown(socket.SHUT_WR)
        with s.makefile("rb") as r:
            same("SHA-256", sha256(r.read()), sha256(body))


def connect_tls():
    _, _, pem = ask("/certificate")
    context = ssl.create_default_context(cadata=pem.decode())
    c = http.client.HTTPSConnection(PROXY.hostname, PROXY.port, timeout=SLOW, context=context)
    c.set_tunnel(HOST, 443)
    for _ in range(3):
        body = pattern(1 << 20)
        c.request("POST", "/echo", body=body)
        e = json.load(c.getresponse())
        same("SHA-256", e["sha256"], sha256(body))
        same("Via, which nobody can add", e["header"].get("Via"), None)
    c.close()


def connect_unknown():
    c = connection()
    c.set_tunnel("nobody", 443)
    try:
        c.connect()
    except OSError as e:
        same("the error names the status", "502" in str(e), True)
        return
    raise AssertionError("there is a tunnel to nobody")


for case in [get, head, post, chunked, expect, refused, early, keepalive, download, streaming, errors, unknown, override,
             connect_http, connect_tcp, connect_tls, connect_unknown]:  # fmt: skip
    name = case.__name__.replace("_", " ")
    began = time.monotonic()
    try:
        case()
        print(f"ok {name}: {(time.monotonic() - began) * 1000:.0f} ms", flush=True)
    except Exception as e:  # each case is for itself
        print(f"FAIL {name}: {type(e).__name__} {e}".replace("\n", " "), flush=True)
