# What others do with the files that it may read cannot be watched.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno, fcntl, os, signal
libc, found = ctypes.CDLL(None, use_errno=True), set()
for call in ((253,), (294, 0), (254, 0, b"/usr/lib", 0xFFF), (300, 0, 0), (301, 0, 1, 8, -100, b"/usr/lib")):
    found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call[0])
directory = os.open("/usr/lib", os.O_RDONLY)
for command, value in ((1026, 0x8000000F), (1024, fcntl.F_RDLCK), (10, signal.SIGIO), (1025, 0)):
    try:
        fcntl.fcntl(directory, command, value)
        found.add(command)
    except OSError as error:
        found.add(errno.errorcode[error.errno])
print(*found)
