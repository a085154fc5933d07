# A file of the host's libraries cannot be linked, moved, opened for writing or changed.
# run: stdin
# expect: ok
# observe: stdout is 7
import os
path, refused = os.__file__, 0
for attempt in (
    lambda: os.link(path, "copy"), lambda: os.rename(path, "copy"), lambda: open(path, "r+"),
    lambda: os.chmod(path, 0o777), lambda: os.utime(path), lambda: os.truncate(path, 0),
    lambda: os.unlink(path),
):
    try:
        attempt()
    except OSError:
        refused += 1
print(refused)
