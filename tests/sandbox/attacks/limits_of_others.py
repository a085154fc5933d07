# Limits cannot be raised, nor those of others changed.
# run: stdin
# expect: ok
# observe: stdout is 9
import resource
refused = 0
for kind in (
    resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC,
    resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK,
):
    try:
        resource.setrlimit(kind, (2**40, 2**40))
    except (ValueError, OSError):
        refused += 1
for pid in (1, 2):
    try:
        resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))
    except OSError:
        refused += 1
print(refused)
