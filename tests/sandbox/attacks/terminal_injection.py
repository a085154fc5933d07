# No keystroke is put into the terminal of whoever started the sandbox.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno, os
libc, found = ctypes.CDLL(None, use_errno=True), set()
for file in range(16):
    for request in (0x5412, 0x541C, 0x5408, 0x5414, 0x540E, 0x5412 | 1 << 32):  # TIOCSTI, TIOCLINUX, ...
        result = libc.ioctl(file, ctypes.c_ulong(request), b"x")
        found.add(errno.errorcode[ctypes.get_errno()] if result == -1 else request)
print(*found)
