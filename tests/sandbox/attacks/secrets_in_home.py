# No file of the host but the libraries can be read.
# run: stdin
# expect: ok
# observe: stdout is
import json, os, sys
paths = [json.load(sys.stdin)["file"], "/etc/shadow", "/etc/passwd", "/root", "/home", "/var", "/work"]
for path in [*paths, "/", "/tmp/..", "/run/secrets", os.path.expanduser("~root/.ssh")]:
    try:
        print(path, os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError:
        pass
