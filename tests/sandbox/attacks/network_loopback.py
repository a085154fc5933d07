# Loopback is out of reach.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM
import errno, json, socket, sys
port = json.load(sys.stdin)["port"]
for host in ("127.0.0.1", "localhost"):
    try:
        socket.create_connection((host, port), 1).send(b"x")
    except OSError as error:
        print(errno.errorcode.get(error.errno, "EPERM"))
