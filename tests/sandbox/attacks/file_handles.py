# Handles, which need no path, are refused.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for call in ((303, -100, b"/", b"\x80" + bytes(136), bytes(4), 0), (304, 0, bytes(16), 0)):
    if libc.syscall(*call) == -1:
        print(errno.errorcode[ctypes.get_errno()])
