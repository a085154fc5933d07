# No raw, packet, netlink, vsock or other family.
# run: stdin
# expect: ok
# observe: stdout is 0
import ctypes
libc = ctypes.CDLL(None)
kinds = [(f, k) for f in range(46) for k in (1, 2, 3, 5)]
print(sum(libc.syscall(41, family, kind, 0) >= 0 for family, kind in kinds))
