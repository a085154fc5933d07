# No keys of the kernel's are kept or read.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM EPERM
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for call in ((248, b"user", b"openqwq", b"x", 1, -3), (249, b"user", b"openqwq", 0, -3), (250, 0, -3, 1)):
    if libc.syscall(*call) == -1:
        print(errno.errorcode[ctypes.get_errno()])
