# The memory and files of the supervisor and of any process are out of reach.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM EPERM EPERM EPERM
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in (310, 311, 312, 434, 438):  # process_vm_readv, _writev, kcmp, pidfd_open, _getfd
    if libc.syscall(number, 1, 0, 0, 0, 0, 0) == -1:
        print(errno.errorcode[ctypes.get_errno()])
