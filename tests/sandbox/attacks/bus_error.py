# A mapping whose file is cut short kills the program alone.
# run: stdin
# expect: crashed
# observe: error has SIGBUS
import mmap, os
file = os.open("f", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 8192)
area = mmap.mmap(file, 8192)
os.ftruncate(file, 0)
print(area[0])
