# chroot and pivot_root are refused, and `..` of the root is the root.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM True
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for call in ((161, b"/tmp"), (155, b"/tmp", b"/tmp")):
    if libc.syscall(*call) == -1:
        print(errno.errorcode[ctypes.get_errno()])
print(os.stat("/").st_ino == os.stat("/../../..").st_ino)
