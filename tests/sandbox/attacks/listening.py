# Nothing can listen, not even inside.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM EPERM
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
near, far = socket.socketpair()
for call in ((49, near.fileno(), b"\1\0\0openqwq", 10), (50, near.fileno(), 5), (43, 3, 0, 0)):
    if libc.syscall(*call) == -1:
        print(errno.errorcode[ctypes.get_errno()])
