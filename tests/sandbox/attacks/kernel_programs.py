# No bpf, performance events, userfaultfd, or change of the filter.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno
libc, found = ctypes.CDLL(None, use_errno=True), set()
for call in (
    (321, 0, bytes(120), 120), (321, 5, bytes(120), 120), (298, bytes(120), 0, -1, -1, 0),
    (323, 0), (323, 1), (317, 1, 0, 0), (157, 22, 2, 0), (157, 4, 1), (157, 38, 0),
    (157, 0x59616D61, -1), (444, 0, 0, 1), (446, 0, 0),
):
    found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call[0])
print(*found)
