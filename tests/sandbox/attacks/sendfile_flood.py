# The kernel copying for the program changes nothing.
# run: stdin
# expect: output_limit
import os
with open("zeros", "wb") as file:
    file.write(bytes(2**20))
source = os.open("zeros", os.O_RDONLY)
while True:
    os.sendfile(1, source, 0, 2**20)
