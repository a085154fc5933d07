# Nor does an abstract one.
# run: stdin
# expect: ok
# observe: stdout has E
import errno, json, socket, sys
near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
try:
    near.sendto(b"x", "\0" + json.load(sys.stdin)["abstract"])
except OSError as error:
    print(errno.errorcode[error.errno])
