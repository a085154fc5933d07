# Nor can it rewrite the next case's input in place, through a mapping or with its times put back.
# run: stdin
# cases: 3
# expect: ok
# observe: stdout is True
import os
print("abstract" in open("/tmp/.stdin").read())
times = os.stat("/tmp/.stdin")
os.chmod("/tmp/.stdin", 0o666)
with open("/tmp/.stdin", "w") as file:
    file.write("forged")
os.utime("/tmp/.stdin", ns=(times.st_atime_ns, times.st_mtime_ns))
