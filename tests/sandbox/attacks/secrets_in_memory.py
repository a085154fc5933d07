# The interpreter's memory holds nothing of the parent's.
# run: stdin
# expect: ok
# observe: stdout is scanned
import ctypes, os, re
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
reader, writer = os.pipe()
pattern = re.compile("".join(["CANARY", "-", "[0-9a-f]{32}"]).encode())
for middle in id(object()) >> 12, libc.sbrk(0) >> 12:
    for page in range(middle - 4096, middle + 4096):
        if libc.write(writer, ctypes.c_void_p(page << 12), 4096) == 4096:
            for found in pattern.findall(os.read(reader, 4096)):
                print(found)
print("scanned")
