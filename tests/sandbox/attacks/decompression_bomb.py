# A few bytes that unpack to gigabytes meet the limit of memory.
# run: stdin
# expect: memory
import zlib
packer = zlib.compressobj(1)
small = b"".join(packer.compress(bytes(2**20)) for _ in range(600)) + packer.flush()
print(len(zlib.decompress(small)))
