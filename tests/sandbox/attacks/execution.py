# Nothing is executed, by any call.
# run: stdin
# limits: processes=4
# expect: ok
# observe: stdout is EPERM EPERM PermissionError
import ctypes, errno, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
path, nothing = b"/lib64/ld-linux-x86-64.so.2", (ctypes.c_char_p * 1)()
for call in ((59, path, nothing, nothing), (322, -100, path, nothing, nothing, 0)):
    if libc.syscall(*call) == -1:
        print(errno.errorcode[ctypes.get_errno()])
try:
    subprocess.run([path])
except OSError as error:
    print(type(error).__name__)
