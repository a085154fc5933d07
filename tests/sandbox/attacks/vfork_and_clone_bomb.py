# Neither vfork nor clone nor clone3 starts a process.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM EPERM ENOSYS
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number, *rest in ((57,), (58,), (56, 17, 0, 0, 0, 0), (435, 0, 0)):
    if libc.syscall(number, *rest) == -1:
        print(errno.errorcode[ctypes.get_errno()])
