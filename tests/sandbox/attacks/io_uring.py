# No io_uring, which would pass by the filter.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM EPERM
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in (425, 426, 427):
    if libc.syscall(number, 8, bytes(120), 0, 0, 0, 0) == -1:
        print(errno.errorcode[ctypes.get_errno()])
