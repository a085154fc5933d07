# Text that no encoding takes comes back as a result, over HTTP too.
# judge: stdin call script
def f(x):
    raise ValueError("\ud800\udfff")
print("\ud800")
