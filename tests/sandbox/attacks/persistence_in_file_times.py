# Times and modes of the private directory do not carry a message to the next case.
# run: stdin
# cases: 3
# expect: ok
# observe: stdout is True True
import os, time
seen = os.stat("/tmp")
print(abs(time.time() - seen.st_mtime) < 100, seen.st_mode & 0o7777 != 0o711)
os.utime("/tmp", (12345, 12345))
os.chmod("/tmp", 0o711)
