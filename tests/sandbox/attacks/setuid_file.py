# A set-user-id file of the program's own making does not run.
# run: stdin
# limits: processes=4
# expect: runtime_error
# observe: stderr has Operation not permitted
import os, shutil
loader = next(p for p in ("/lib64/ld-linux-x86-64.so.2", "/usr/lib64/ld-linux-x86-64.so.2") if os.path.exists(p))
shutil.copyfile(loader, "root")
os.chmod("root", 0o6755)
os.execv("root", ["root", "--version"])
