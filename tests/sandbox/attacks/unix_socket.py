# A named socket of the host gets no datagram from a pair's end.
# run: stdin
# expect: ok
# observe: stdout has E
import errno, json, socket, sys
near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
try:
    near.sendto(b"x", json.load(sys.stdin)["socket"])
except OSError as error:
    print(errno.errorcode[error.errno])
