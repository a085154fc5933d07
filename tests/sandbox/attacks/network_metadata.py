# So is the cloud's metadata address, also for a socket of another kind.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM EPERM
import ctypes, errno, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
near, far = socket.socketpair()
address = struct.pack("!HH4s8x", 0, 80, socket.inet_aton("169.254.169.254"))
for call in ((41, 2, 1, 0), (42, near.fileno(), address, 16), (41, 10, 2, 0)):
    if libc.syscall(*call) == -1:
        print(errno.errorcode[ctypes.get_errno()])
