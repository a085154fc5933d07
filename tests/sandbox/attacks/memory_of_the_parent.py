# Nor can the memory of any other process be read.
# judge: stdin call script
# observe: seen nothing
import ctypes, os
def f(x):
    libc, text = ctypes.CDLL(None), ctypes.create_string_buffer(4096)
    near = (ctypes.c_size_t * 2)(ctypes.addressof(text), 4096)
    for pid in (os.getppid(), *range(1, 50)):
        for address in (id(f) & ~4095, id(os) & ~4095):
            far = (ctypes.c_size_t * 2)(address, 4096)
            if pid != os.getpid() and libc.syscall(310, pid, near, 1, far, 1, 0) > 0:
                return "read " + str(pid)
    return "nothing"
print(f(1))
